// The server settings of a private Postgres. They go on the command line, not into postgresql.conf, so that each run has
// exactly the settings of its binary's version of pgautomate and `ps` shows them.

package private

import (
	"maps"
	"slices"
	"strconv"
)

type settings map[string]string

func (s *Server) settings() settings {
	all := settings{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.socket,
		"unix_socket_permissions": "0700",

		// The feed reads a logical slot; tests and sharded feeds have many of them.
		"wal_level":             "logical",
		"max_replication_slots": "100",
		"max_wal_senders":       "100",
		"max_connections":       "300",

		"shared_buffers": "128MB",

		// One log that this process owns; no collector process that could outlive us.
		"logging_collector": "off",
		"log_destination":   "stderr",

		// The same answers on every machine.
		"timezone":     "UTC",
		"log_timezone": "UTC",
	}
	if s.opts.Volatile {
		all["fsync"] = "off"
		all["full_page_writes"] = "off"
		all["synchronous_commit"] = "on" // tests must see what a commit means, only not pay for the disk
		all["wal_init_zero"] = "off"     // cloning databases writes much log
	}
	maps.Copy(all, s.opts.Settings)
	return all
}

func (s settings) arguments() []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}
