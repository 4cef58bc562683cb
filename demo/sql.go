package demo

import (
	"embed"
	"strings"
)

//go:embed sql
var sqlFiles embed.FS

// statements are those of the folder sql that have a name, by it.
var statements = func() map[string]string {
	named := map[string]string{}
	for _, file := range []string{"app.sql", "engine.sql", "database.sql"} {
		for _, part := range strings.Split(script(file), "-- name: ")[1:] {
			name, text, _ := strings.Cut(part, "\n")
			// What follows the last line of a statement are comments of the next one.
			text, _, _ = strings.Cut(text, "\n--")
			named[name] = strings.TrimSpace(text)
		}
	}
	return named
}()

func script(file string) string {
	raw, err := sqlFiles.ReadFile("sql/" + file)
	if err != nil {
		panic(err) // the binary was built without it
	}
	return string(raw)
}
