package trigger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/mirror"
)

// Triggers across relations: 10,000 of one organization, or 100,000 of 2,000, each
// with a condition on leads and one on their tasks; updates of one or the other.

func benchRelated(b *testing.B, organizations, perOrganization int) {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	set, store := NewSet(), mirror.New()
	set.SetSchema(timedLead, timedRelations["lead"])
	set.SetSchema(timedTask, timedRelations["task"])
	word := func() string { return fmt.Sprintf("value-%d", rnd.IntN(500)) }
	for i := range organizations * perOrganization {
		query := and(`{"type":"object_type","object_type":"lead"}`, fieldOf("lead", "status", term(word())), hasRelated("lead", "task", fieldOf("task", "kind", exact(word())), ""))
		if err := set.Put(Definition{ID: int64(i + 1), Version: 1, Organization: "org " + strconv.Itoa(i%organizations), ObjectType: "lead", Query: json.RawMessage(query)}); err != nil {
			b.Fatal(err)
		}
	}
	for _, spec := range set.Wanted() {
		store.Define(spec)
	}
	set.SetMirror(store)
	const leads = 20_000
	rows := map[string][]cols{}
	for i := range leads {
		organization := "org " + strconv.Itoa(i%organizations)
		id := strconv.Itoa(i)
		rows["lead"] = append(rows["lead"], cols{"id": id, "organization_id": organization, "status": word()})
		for range 3 {
			rows["task"] = append(rows["task"], cols{"id": strconv.Itoa(len(rows["task"])), "organization_id": organization, "lead_id": id, "kind": word()})
		}
	}
	for name, list := range rows {
		for _, row := range list {
			if _, err := store.Table(name).Put(row["id"], row["organization_id"], timedRelations[name], rowOf(timedRelations[name], row)); err != nil {
				b.Fatal(err)
			}
		}
	}
	var changes []*change.Commit
	for range 20_000 {
		name, column := "lead", "status"
		if rnd.IntN(2) == 0 {
			name, column = "task", "kind"
		}
		row := rows[name][rnd.IntN(len(rows[name]))]
		c := change.Change{Object: timedObjects[name], Relation: timedRelations[name], BeforeRelation: timedRelations[name], ID: row["id"]}
		c.Organization, c.OldOrganization, c.Before = row["organization_id"], row["organization_id"], rowOf(c.Relation, row)
		row[column] = word()
		c.After = rowOf(c.Relation, row)
		changes = append(changes, &change.Commit{Time: time.Now(), Changes: []change.Change{c}})
	}
	var dst []RelatedFiring
	fired, candidates := 0, uint64(0)
	i := 0
	for b.Loop() {
		c := changes[i%len(changes)]
		i++
		n, err := set.Consider(&c.Changes[0])
		if err != nil {
			b.Fatal(err)
		}
		candidates += n.Candidates
		if err := store.Apply(c); err != nil {
			b.Fatal(err)
		}
		dst, n = set.Settle(dst[:0])
		candidates += n.Candidates
		fired += len(dst)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
	b.ReportMetric(float64(candidates)/float64(b.N), "evaluations/op")
	b.ReportMetric(float64(fired)/float64(b.N), "fires/op")
}

func BenchmarkRelatedOneOrganization(b *testing.B) { benchRelated(b, 1, 10_000) }

func BenchmarkRelated2000Organizations(b *testing.B) { benchRelated(b, 2_000, 50) }
