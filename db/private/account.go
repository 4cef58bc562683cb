// Which user the server runs as. Postgres refuses to run as root, so a root parent runs it as somebody else; anyone else
// runs it as themselves.
//
// The other user must reach the data folder. Parents that this package made can be entered by all; but a folder given to
// us may lie below one that cannot (`mktemp -d` gives mode 0700, as has root's home), and it is not for us to open those. On
// Linux the child then inherits an open descriptor of the folder and reaches it as /proc/self/fd/3, for which the
// permissions of the parents don't count.

package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

type account struct {
	other bool // another user than this process's
	name  string
	uid   uint32
	gid   uint32
}

// chooseAccount picks the owner of the cluster in dir when there is one, else `postgres`, else `nobody`.
func chooseAccount(dir string) (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{uid: uint32(uid), gid: uint32(os.Getegid())}, nil
	}
	if info, err := os.Stat(filepath.Join(dir, "cluster")); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			name := strconv.FormatUint(uint64(stat.Uid), 10)
			if u, err := user.LookupId(name); err == nil {
				name = u.Username
			}
			return account{other: true, name: name, uid: stat.Uid, gid: stat.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{other: true, name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return account{}, errors.New("root can't run Postgres and this machine has no user postgres or nobody: " +
		"start pgautomate as another user, or set DATABASE_URL")
}

// credential is nil when the server runs as this process's own user.
func (a account) credential() *syscall.Credential {
	if !a.other {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// give makes the account the owner of path.
func (a account) give(path string) error {
	if !a.other {
		return nil
	}
	if err := os.Chown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("can't give %s to user %s: use a --data-dir on a local disk, or set DATABASE_URL (%w)", path, a.name, err)
	}
	return nil
}

// enter returns the path under which a child process reaches dir, and the descriptors that it must inherit for it (as 3,
// 4, …). The caller calls done once the child has started.
func (a account) enter(dir string) (path string, inherit []*os.File, done func(), err error) {
	if a.reaches(dir) {
		return dir, nil, func() {}, nil
	}
	if runtime.GOOS != "linux" {
		return "", nil, nil, fmt.Errorf("user %s, who runs the server, can't enter %s: use a --data-dir that all may enter, or set DATABASE_URL", a.name, dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, nil, fmt.Errorf("data folder %s: make it readable or use another --data-dir (%w)", dir, err)
	}
	return "/proc/self/fd/3", []*os.File{f}, func() { _ = f.Close() }, nil
}

// reaches tells whether the account may enter every folder from / to dir, by their mode bits.
func (a account) reaches(dir string) bool {
	if !a.other {
		return true
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for at := resolved; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil || !a.mayEnter(info) {
			return false
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	mode := info.Mode().Perm()
	switch {
	case stat.Uid == a.uid:
		return mode&0o100 != 0
	case stat.Gid == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// ownsPrivate tells whether path is a folder (no link to one) of the account that is closed to all others.
func (a account) ownsPrivate(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == a.uid
}

// explain adds advice to the error of a child process that could not be started.
func (a account) explain(err error, program string) error {
	if a.other && errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("can't become user %s, as whom the server must run: start pgautomate as a user other than root, or set DATABASE_URL (%w)", a.name, err)
	}
	if a.other && errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("user %s, who runs the server, can't execute %s: put the binaries where all users may enter, or set DATABASE_URL (%w)", a.name, program, err)
	}
	return fmt.Errorf("can't start %s: install Postgres (Debian: package postgresql) or set DATABASE_URL (%w)", program, err)
}

// environment is what the server and its tools see: nothing of the user's PG* variables.
func environment() []string {
	env := []string{"LC_ALL=C", "HOME=/", "PATH=" + os.Getenv("PATH")}
	for _, keep := range []string{"TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(keep); ok && !strings.ContainsRune(value, 0) {
			env = append(env, keep+"="+value)
		}
	}
	return env
}
