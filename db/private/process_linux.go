// What only Linux offers: a signal at the parent's death, and a look at where another process works.

package private

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func childAttributes(a account, atParentsDeath syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: a.credential(), Pdeathsig: atParentsDeath}
}

// isPostmasterOf tells whether a live process is the postmaster of a data folder: postmasters work inside theirs. (The path
// in postmaster.pid proves nothing: the pid may have been given to another process since.)
func isPostmasterOf(pid int, _ string, data string) bool {
	work, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	there, err := os.Stat(work)
	if err != nil {
		return false
	}
	here, err := os.Stat(data)
	return err == nil && os.SameFile(there, here)
}
