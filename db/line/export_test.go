package line

import (
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// WatchClosely is Watch with shorter limits.
func WatchClosely(cfg *pgconn.Config, lost func(), silent, giveUp time.Duration) {
	watch(cfg, lost, limits{silent: silent, every: silent / 6, confirm: silent / 2, giveUp: giveUp, within: giveUp / 3})
}
