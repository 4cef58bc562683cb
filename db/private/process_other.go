//go:build unix && !linux

// Other Unixes have no signal at the parent's death: a server whose parent was killed lives on until the next start on its
// data folder finds it there and shuts it down.

package private

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

func childAttributes(a account, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: a.credential()}
}

// isPostmasterOf tells whether a live process is the postmaster of a data folder, by its command and the folder that
// postmaster.pid names.
func isPostmasterOf(pid int, recorded, data string) bool {
	command, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil || !strings.Contains(string(command), "postgres") {
		return false
	}
	there, err := os.Stat(recorded)
	if err != nil {
		return false
	}
	here, err := os.Stat(data)
	return err == nil && os.SameFile(there, here)
}
