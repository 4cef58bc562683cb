package firing

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
)

// maxNotes bounds what one batch writes into feed_notes: a flood of one kind is
// told by its count.
const maxNotes = 1000

// notes gathers a batch's rows of feed_notes.
type notes struct {
	list []note
	sums map[string]int // kind and object type -> place in list
	over map[string]int
}

type note struct {
	commit *change.Commit
	kind   string
	count  int
	detail map[string]any
}

func newNotes() *notes { return &notes{sums: map[string]int{}, over: map[string]int{}} }

func (n *notes) add(c *change.Commit, kind string, count int, detail map[string]any) {
	if len(n.list) >= maxNotes {
		n.over[kind] += count
		return
	}
	n.list = append(n.list, note{c, kind, count, detail})
}

// sum keeps one row for a kind and object type, with their count.
func (n *notes) sum(c *change.Commit, kind string, count int, objectType string) {
	key := kind + "\x00" + objectType
	at, ok := n.sums[key]
	if !ok {
		n.sums[key] = len(n.list)
		n.list = append(n.list, note{c, kind, count, map[string]any{"object_type": objectType}})
		return
	}
	n.list[at].count += count
	n.list[at].commit = c
}

func (n *notes) write(ctx context.Context, tx pgx.Tx) error {
	for kind, count := range n.over {
		n.list = append(n.list, note{n.list[len(n.list)-1].commit, kind, count, map[string]any{"more": true}})
	}
	if len(n.list) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"pgautomate", "feed_notes"}, []string{"commit_lsn", "kind", "count", "detail"},
		pgx.CopyFromSlice(len(n.list), func(i int) ([]any, error) {
			detail, err := json.Marshal(n.list[i].detail)
			if err != nil || n.list[i].detail == nil {
				detail = []byte("{}")
			}
			return []any{copyLSN(n.list[i].commit.LSN), n.list[i].kind, n.list[i].count, json.RawMessage(detail)}, err
		}))
	if err != nil {
		return fmt.Errorf("feed_notes: %w", err)
	}
	return nil
}
