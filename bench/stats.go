package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// turns are the measurements of a value and its reference.
type turns struct{ values, references []float64 }

func (t *turns) add(value, reference float64) {
	t.values, t.references = append(t.values, value), append(t.references, reference)
}

// into sets a figure's medians.
func (t *turns) into(f Figure) Figure {
	f.Value, f.Reference = median(t.values), median(t.references)
	if len(t.values) > 1 {
		ratios := make([]float64, len(t.values))
		for i := range ratios {
			ratios[i] = t.values[i] / t.references[i]
		}
		f.Conditions += fmt.Sprintf("; median of %d, ", len(ratios))
		if f.of == ofValue {
			f.Conditions += fmt.Sprintf("%s to %s %s, ", number(slices.Min(t.values)), number(slices.Max(t.values)), f.Unit)
		}
		f.Conditions += fmt.Sprintf("ratios %.2f to %.2f", slices.Min(ratios), slices.Max(ratios))
	}
	return f
}

func median(v []float64) float64 { return percentile(v, 0.5) }

// percentile takes the nearest rank of values in any order.
func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(v))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuOf is what a process that ended has used.
func cpuOf(c *exec.Cmd) time.Duration { return c.ProcessState.UserTime() + c.ProcessState.SystemTime() }

// cpuOfLiving is what a process has used until now, in seconds.
func cpuOfLiving(pid int) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The fields after the name, which is in parentheses and may hold anything: utime and stime are the 12th and 13th.
	_, rest, _ := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: %q is no status", pid, raw)
	}
	ticks := 0.0
	for _, f := range fields[11:13] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		ticks += n
	}
	return ticks / 100, nil // USER_HZ
}

// memoryOf gives a line of /proc/PID/status, such as VmHWM, in MB.
func memoryOf(pid int, line string) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(text, line+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d shows no %s", pid, line)
}
