package demo

import (
	"embed"

	"github.com/pgautomate/pgautomate/internal/sqltext"
)

//go:embed sql
var sqlFiles embed.FS

// statements are those of the folder sql that have a name, by it.
var statements = sqltext.Statements(sqlFiles, "sql/app.sql", "sql/engine.sql", "sql/database.sql")

func script(file string) string { return sqltext.Script(sqlFiles, "sql/"+file) }
