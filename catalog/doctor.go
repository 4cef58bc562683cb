package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/dbq"
)

// Problem is something that needs a person, with what to do. Severity is error,
// warning, or note: advice, no problem.
type Problem struct{ Severity, Subject, Problem, Fix string }

// Doctor checks the server and what is watched, and adds what the view problems
// knows.
func Doctor(ctx context.Context, pool *pgxpool.Pool) ([]Problem, error) {
	q := dbq.New(pool)
	server, err := q.ServerSettings(ctx)
	if err != nil {
		return nil, fmt.Errorf("server settings: %w", err)
	}
	found := ofServer(server)
	rows, err := q.ListObjectTypes(ctx)
	if err != nil {
		return nil, fmt.Errorf("object types: %w", err)
	}
	published, err := q.PublishedTables(ctx, Publication)
	if err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	}
	if there, err := q.PublicationExists(ctx, Publication); err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	} else if !there {
		found = append(found, Problem{"warning", "publication " + Publication, "it is not there yet", "run `pgautomate run`, or `pgautomate watch TABLE`, which make it"})
	}
	filters, err := q.PublicationFilters(ctx, Publication)
	if err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	}
	for _, f := range filters {
		found = append(found, Problem{"error", "publication " + Publication, "table " + f + " has a row filter or column list: changes would be hidden or look like others",
			fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; then `pgautomate watch %s` again", Publication, f, f)})
	}
	generated, err := q.PublicationGenerated(ctx, Publication)
	if err != nil {
		return nil, fmt.Errorf("publication: %w", err)
	}
	types, err := load(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		t := types[r.Name]
		switch {
		case t == nil:
			found = append(found, Problem{"error", "object type " + r.Name, "its table " + r.TableName + " is gone", "`pgautomate unwatch " + r.Name + "`"})
			continue
		case !slices.Contains(published, r.TableName):
			found = append(found, Problem{"error", "object type " + r.Name, r.TableName + " is not in the publication", "ALTER PUBLICATION " + Publication + " ADD TABLE " + r.TableName})
		}
		stored := slices.ContainsFunc(t.Columns, func(c Column) bool { return c.Hidden && !c.Virtual })
		if col := t.virtual(); col != "" {
			found = append(found, Problem{"error", "object type " + r.Name, "Postgres refuses all updates and deletes of " + r.TableName + ", because its generated column " + col + " is virtual",
				"drop the column and add it as STORED, or `pgautomate unwatch " + r.Name + "`"})
		} else if stored && generated.Known && !generated.Published && slices.Contains(published, r.TableName) {
			found = append(found, Problem{"error", "object type " + r.Name, "Postgres refuses all updates and deletes of " + r.TableName + ", because its generated columns are not published",
				alterPublishStored})
		}
		if t.Identity != change.IdentityFull {
			found = append(found, Problem{"error", "object type " + r.Name, "updates of " + r.TableName + " come without the old row and fire nothing", t.AlterIdentity()})
		}
		for _, col := range []string{t.ID, t.Organization, t.Custom} {
			if col != "" && t.Column(col) == nil {
				found = append(found, Problem{"error", "object type " + r.Name, r.TableName + " has no column " + col + " any more", "`pgautomate watch " + r.TableName + " --as " + r.Name + "` with its columns as they are now"})
			}
		}
	}
	more, err := q.ListProblems(ctx)
	if err != nil {
		return nil, fmt.Errorf("problems: %w", err)
	}
	for _, p := range more {
		found = append(found, Problem{p.Severity, p.Subject, p.Problem, p.Fix})
	}
	return found, nil
}

func ofServer(server dbq.ServerSettingsRow) []Problem {
	var found []Problem
	if server.WalLevel != "logical" {
		found = append(found, Problem{"error", "server", "wal_level is " + server.WalLevel + ": the log carries no row changes",
			"ALTER SYSTEM SET wal_level = 'logical'; then restart the server"})
	}
	if server.FreeSlots <= 0 && server.OwnSlots == 0 {
		found = append(found, Problem{"error", "server", "all replication slots are taken",
			"raise max_replication_slots (and max_wal_senders) and restart the server"})
	}
	if !server.Replication {
		found = append(found, Problem{"error", "role " + server.Role, "it may not replicate",
			fmt.Sprintf("ALTER ROLE %s REPLICATION", ident(server.Role))})
	}
	if !server.SeesSessions {
		found = append(found, Problem{"note", "role " + server.Role, "it may not see other users' sessions: their old transactions go unnoticed",
			"GRANT pg_read_all_stats TO " + ident(server.Role)})
	}
	if server.KeepSize == "-1" {
		found = append(found, Problem{"note", "server", "max_slot_wal_keep_size is not set: a stopped engine can fill the disk with log",
			"ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can spare; when it is exceeded changes are lost, and that is reported"})
	}
	if server.IdleTimeout != "0" {
		found = append(found, Problem{"warning", "server", "idle_replication_slot_timeout is " + server.IdleTimeout + ": changes are lost when the engine stands still for so long",
			"ALTER SYSTEM SET idle_replication_slot_timeout = 0; max_slot_wal_keep_size bounds what a stopped engine keeps on the disk"})
	}
	return found
}
