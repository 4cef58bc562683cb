package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
)

// relatedRows measures what deciding a trigger on the mirror of related rows costs.
func relatedRows(ctx context.Context, r *run) error {
	condition := func(objectType, field, condition string) string {
		return `{"type":"field_condition","field":{"type":"regular_field","object_type":"` + objectType + `","field_name":"` + field + `"},"condition":` + condition + `}`
	}
	won := condition("deal", "status", isOneOf("won"))
	// Each change makes both look at the other condition, which doesn't hold.
	queries := map[string]string{
		"related": query("deal", won, `{"type":"has_related","this_object_type":"deal","related_object_type":"company","related_query":`+
			condition("company", "tier", isOneOf("gold"))+`}`),
		"plain": query("deal", won, condition("deal", "value", `{"type":"number_range","gte":0}`)),
	}
	feeders := map[string]*feeder{}
	for _, name := range []string{"related", "plain"} {
		f, err := r.dealsWith(ctx, name, queries[name])
		if f != nil {
			defer f.close()
		}
		if err != nil {
			return err
		}
		feeders[name] = f
	}
	var t turns
	for i := range r.reps {
		rates := map[string]float64{}
		order := []string{"plain", "related"}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			var err error
			if rates[name], err = r.drainDeals(ctx, feeders[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		t.add(rates["related"], rates["plain"])
	}
	return r.add(t.into(Figure{
		Name: "related_exactness", Unit: "changes/s", ReferenceName: "the same trigger with a condition on the object itself instead", Reach: 0.8,
		Conditions: fmt.Sprintf("%d updates in %d-row transactions, each asks whether the related row holds (has_related, decided on the mirror of %d related rows as of the commit); "+
			"%d organizations, one trigger each; nothing fires", r.rows, r.perTx, r.companies(), fewOrganizations),
	}))
}

// companies is how many related rows there are.
func (r *run) companies() int { return max(r.rows/10, fewOrganizations) }

func (r *run) dealsWith(ctx context.Context, name, query string) (*feeder, error) {
	d, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.leads(ctx, 1, 1); err != nil { // for the mark
		return nil, err
	}
	if err := d.exec(ctx, "fill_companies", r.companies(), fewOrganizations); err != nil {
		return nil, err
	}
	if err := d.exec(ctx, "fill_deals", r.rows, fewOrganizations, r.companies()); err != nil {
		return nil, err
	}
	if err := d.run(ctx, "VACUUM (ANALYZE) company, deal"); err != nil {
		return nil, err
	}
	for i := range fewOrganizations {
		if err := d.exec(ctx, "add_trigger", organization(i), "t"+strconv.Itoa(i), "deal", query); err != nil {
			return nil, err
		}
	}
	return newFeeder(ctx, r, d)
}

// drainDeals makes all deals open, and measures how fast their being won is drained.
func (r *run) drainDeals(ctx context.Context, f *feeder) (float64, error) {
	change := func(round int) error {
		if err := f.d.run(ctx, "VACUUM deal"); err != nil {
			return err
		}
		return f.d.run(ctx, fmt.Sprintf("CALL change_deals(%d, %d, %d)", r.rows, r.perTx, round))
	}
	if err := change(0); err != nil {
		return 0, err
	}
	// Twice: what the first writes is behind the second.
	for range 2 {
		if err := f.catchUp(ctx); err != nil {
			return 0, err
		}
	}
	if err := change(1); err != nil {
		return 0, err
	}
	end, err := f.d.mark(ctx)
	if err != nil {
		return 0, err
	}
	runtime.GC()
	u, err := f.drain(ctx, end)
	return float64(r.rows) / u.seconds, err
}
