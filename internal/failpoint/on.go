//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the place and the visit at which the process kills itself: "name:N".
const Env = "PGAUTOMATE_FAILPOINT"

var (
	name string
	left atomic.Int64
)

func init() {
	value := os.Getenv(Env)
	if value == "" {
		return
	}
	var count string
	name, count, _ = strings.Cut(value, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		fmt.Fprintf(os.Stderr, "%s=%s: write it as name:N\n", Env, value)
		os.Exit(2)
	}
	left.Store(n)
}

// Hit kills the process if this is the place and the visit that the environment names.
func Hit(place string) {
	if place != name || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal comes before anything else is done
}
