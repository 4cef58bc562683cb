// Where throwaway servers live on Linux: in memory when there is plenty. A clone of the template makes some 450 files; on a
// disk's file system that alone can take half a second, in memory it takes some ten milliseconds.

package dbtest

import (
	"os"
	"syscall"
)

// plenty is the free memory-backed space, in bytes, from which on it is used: far more than the tests write.
const plenty = 6 << 30

// parentFolder is where the temporary folders of servers go; empty means the system's own choice.
func parentFolder() string {
	const memory = "/dev/shm"
	var stat syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &stat) != nil {
		return ""
	}
	if stat.Bavail*uint64(stat.Bsize) < plenty || syscall.Access(memory, 0o3) != nil { // write and enter
		return ""
	}
	return memory
}
