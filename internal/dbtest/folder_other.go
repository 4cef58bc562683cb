//go:build !linux

package dbtest

// parentFolder is where the temporary folders of servers go; empty means the system's own choice.
func parentFolder() string { return "" }
