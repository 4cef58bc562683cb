// One child process with an owner: a goroutine that is bound to its operating-system thread from fork to exit.
//
// The binding matters on Linux. There the child asks the kernel for a signal when its parent dies, so that kill -9 of
// pgautomate takes the server along; but the kernel means the parent thread, and Go ends threads when it likes. A goroutine
// that is locked to its thread and waits there for the child keeps the thread alive exactly as long as needed.

package private

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

type osSignal = syscall.Signal

// How a postmaster understands signals: https://www.postgresql.org/docs/current/server-shutdown.html
const (
	syscallInterrupt = syscall.SIGINT  // fast shutdown
	syscallQuit      = syscall.SIGQUIT // immediate shutdown
	syscallKill      = syscall.SIGKILL
)

type processSpec struct {
	path    string
	args    []string
	account account
	output  *os.File
	extra   []*os.File
}

type process struct {
	pid  int
	done chan struct{} // closed when the process has ended
	cmd  *exec.Cmd
}

// startProcess starts a server in a process group of its own, so that Ctrl-C reaches only us and we stop it in order.
// It gets SIGQUIT (immediate shutdown) when this process dies.
func startProcess(spec processSpec) (*process, error) {
	cmd := exec.Command(spec.path, spec.args...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdout = spec.output
	cmd.Stderr = spec.output
	cmd.ExtraFiles = spec.extra
	cmd.SysProcAttr = childAttributes(spec.account, syscall.SIGQUIT)

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// signal does nothing when the process has ended.
func (p *process) signal(sig osSignal) { _ = p.cmd.Process.Signal(sig) }

// state tells how the process ended; call it only after done is closed.
func (p *process) state() string { return p.cmd.ProcessState.String() }

// alive tells whether some process has this pid, whoever owns it.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || err == syscall.EPERM
}
