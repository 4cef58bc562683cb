// Where server binaries come from: the machine's own when it has supported ones, else a download.
//
// A cluster can only be served by the major version that made it, so an existing data folder decides which of several
// installations is taken. The download is github.com/fergusstrange/embedded-postgres's; that library can only fetch as part
// of starting a server of its own, so it gets a throwaway one, and everything after is this package's.

package private

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// binEnv names the folder of the server binaries to use, before all others.
const binEnv = "PGAUTOMATE_PG_BIN"

type binaries struct {
	dir     string
	version string // such as 15.6
	major   int
}

func (b binaries) program(name string) string { return filepath.Join(b.dir, name) }

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)(\S*)`)

// findBinaries returns the first supported installation, of the wanted major version when that is not 0.
func findBinaries(ctx context.Context, a account, wanted int, dir string, fetch bool, logger *slog.Logger) (binaries, error) {
	var misfits []string // what was found and why it doesn't serve
	seen := map[string]bool{}
	for _, folder := range candidateFolders(ctx) {
		if seen[folder] {
			continue
		}
		seen[folder] = true
		found, err := inspect(ctx, a, folder)
		switch {
		case ctx.Err() != nil:
			return binaries{}, fmt.Errorf("stopped while looking for Postgres: %w", ctx.Err())
		case err != nil && folder == os.Getenv(binEnv):
			return binaries{}, fmt.Errorf("%s=%s: %w", binEnv, folder, err)
		case errors.Is(err, errNoBinaries):
		case err != nil:
			misfits = append(misfits, err.Error())
		case wanted != 0 && found.major != wanted:
			misfits = append(misfits, fmt.Sprintf("%s is version %d", folder, found.major))
		default:
			return found, nil
		}
	}
	if fetch {
		found, err := fetchBinaries(ctx, a, wanted, dir, embeddedpostgres.DefaultConfig(), logger)
		if err == nil || ctx.Err() != nil {
			return found, err
		}
		misfits = append(misfits, "download failed: "+oneLine(err.Error()))
	}
	return binaries{}, notFound(wanted, dir, misfits)
}

func notFound(wanted int, dir string, misfits []string) error {
	detail := ""
	if len(misfits) > 0 {
		detail = " (" + strings.Join(misfits, "; ") + ")"
	}
	if wanted != 0 {
		return fmt.Errorf("data folder %s was made by Postgres %d, which is not on this machine: install it (Debian: package postgresql-%d), use another --data-dir, or set DATABASE_URL%s",
			dir, wanted, wanted, detail)
	}
	return fmt.Errorf("no Postgres %d to %d on this machine: install one (Debian: package postgresql; Homebrew: postgresql@17), point %s to its binaries, or set DATABASE_URL%s",
		minMajor, maxMajor, binEnv, detail)
}

// candidateFolders lists where server binaries may be, in the order of preference.
func candidateFolders(ctx context.Context) []string {
	var folders []string
	if dir := os.Getenv(binEnv); dir != "" {
		folders = append(folders, dir)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			path = resolved // initdb lies beside the real one
		}
		if path, err = filepath.Abs(path); err == nil {
			folders = append(folders, filepath.Dir(path))
		}
	}
	if output, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(output)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		slices.SortFunc(matches, func(x, y string) int { return folderMajor(y) - folderMajor(x) })
		folders = append(folders, matches...)
	}
	return folders
}

var numberPattern = regexp.MustCompile(`\d+`)

// folderMajor is the version in the name of an installation's folder, 0 when there is none.
func folderMajor(folder string) int {
	major, _ := strconv.Atoi(numberPattern.FindString(folder))
	return major
}

var errNoBinaries = errors.New("holds no postgres and initdb")

// inspect asks the binaries of a folder for their version, as the user who will run them.
func inspect(ctx context.Context, a account, folder string) (binaries, error) {
	for _, name := range []string{"postgres", "initdb"} {
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.IsDir() {
			return binaries{}, errNoBinaries
		}
	}
	b := binaries{dir: folder}
	cmd := exec.CommandContext(ctx, b.program("postgres"), "--version")
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = childAttributes(a, 0)
	cmd.WaitDelay = time.Second
	output, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return binaries{}, fmt.Errorf("%s does not run here: %s", b.program("postgres"), oneLine(string(exit.Stderr)))
		}
		return binaries{}, a.explain(err, b.program("postgres"))
	}
	match := versionPattern.FindStringSubmatch(string(output))
	if match == nil {
		return binaries{}, fmt.Errorf("%s tells no version", b.program("postgres"))
	}
	if b.major, err = strconv.Atoi(match[1]); err != nil || b.major < minMajor || b.major > maxMajor {
		return binaries{}, fmt.Errorf("%s is version %s, not %d to %d", folder, match[1], minMajor, maxMajor)
	}
	b.version = match[1] + match[2]
	return b, nil
}

// fetchVersions are the releases that the library knows to fetch.
var fetchVersions = map[int]embeddedpostgres.PostgresVersion{
	14: embeddedpostgres.V14,
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

// fetchBinaries returns the binaries of an earlier download, else downloads them. wanted 0 means the newest version but
// one, whose bugs others have met.
func fetchBinaries(ctx context.Context, a account, wanted int, dir string, config embeddedpostgres.Config, logger *slog.Logger) (binaries, error) {
	if wanted == 0 {
		wanted = maxMajor - 1
	}
	version, ok := fetchVersions[wanted]
	if !ok {
		return binaries{}, fmt.Errorf("there is no download of Postgres %d", wanted)
	}
	home, err := fetchFolder(a, dir)
	if err != nil {
		return binaries{}, err
	}
	final := filepath.Join(home, fmt.Sprintf("postgres-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH))
	if found, err := inspect(ctx, a, filepath.Join(final, "bin")); err == nil {
		return found, nil
	}
	logger.Info("no Postgres on this machine, downloading one", "version", string(version), "to", final)

	// The library takes no context. Its work is left to itself when ctx ends: it only writes below its own temporary folder,
	// which it removes.
	result := make(chan error, 1)
	go func() { result <- download(config.Version(version), home, final) }()
	select {
	case err := <-result:
		if err != nil {
			return binaries{}, err
		}
	case <-ctx.Done():
		return binaries{}, fmt.Errorf("stopped while downloading Postgres: %w", ctx.Err())
	}
	return inspect(ctx, a, filepath.Join(final, "bin"))
}

// fetchFolder is where downloads are kept for all data folders of a user.
func fetchFolder(a account, dir string) (string, error) {
	home := filepath.Join(dir, "binaries")
	if a.other {
		home = "/var/cache/pgautomate" // where the server's user can execute them
	} else if cache, err := os.UserCacheDir(); err == nil {
		home = filepath.Join(cache, "pgautomate")
	}
	if err := makeFolder(home); err != nil {
		return "", err
	}
	return home, nil
}

// download lets the library fetch and unpack, into a sibling of final that is renamed when complete.
func download(config embeddedpostgres.Config, home, final string) (err error) {
	defer func() {
		if problem := recover(); problem != nil { // the library panics when it can't clean up
			err = fmt.Errorf("%v", problem)
		}
	}()
	work, err := os.MkdirTemp(home, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	unpacked := filepath.Join(work, "unpacked")
	library := embeddedpostgres.NewDatabase(config.
		CachePath(filepath.Join(work, "archive")).
		BinariesPath(unpacked).
		RuntimePath(filepath.Join(work, "runtime")).
		DataPath(filepath.Join(work, "data")).
		Port(freePort()).
		Logger(io.Discard))
	started := library.Start() // fails as root, for initdb refuses, but only after unpacking
	if started == nil {
		if err := library.Stop(); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(unpacked, "bin", "initdb")); err != nil {
		if started != nil {
			return started
		}
		return err
	}
	if err := os.Chmod(unpacked, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(final, "bin", "initdb")); err == nil {
		return nil // another process was faster
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(unpacked, final)
}

func freePort() uint32 {
	for port := 30000; port < 32000; port++ {
		if portFree(port) {
			return uint32(port)
		}
	}
	return 30000
}
