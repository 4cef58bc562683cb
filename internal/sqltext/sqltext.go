// Package sqltext reads files of SQL whose statements have names: lines
// `-- name: NAME`, as in the folder queries.
package sqltext

import (
	"io/fs"
	"strings"
)

// Statements gives the named statements of files, by name. A file that isn't there is a
// fault of the build: it panics.
func Statements(files fs.FS, names ...string) map[string]string {
	named := map[string]string{}
	for _, file := range names {
		for _, part := range strings.Split(Script(files, file), "-- name: ")[1:] {
			name, text, _ := strings.Cut(part, "\n")
			// What follows the last line of a statement are comments of the next one.
			text, _, _ = strings.Cut(text, "\n--")
			named[name] = strings.TrimSpace(text)
		}
	}
	return named
}

// Script gives a whole file.
func Script(files fs.FS, file string) string {
	raw, err := fs.ReadFile(files, file)
	if err != nil {
		panic(err) // the binary was built without it
	}
	return string(raw)
}
