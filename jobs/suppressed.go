package jobs

// Addresses that nothing is to be sent to, whoever has them: they are known only once
// an action's templates are rendered, so the handlers that send to addresses ask.

import (
	"context"
	"fmt"
	"net/mail"
	"slices"
)

// SuppressedError says that an action's every address is one that nothing is to be
// sent to. It is no failure: the action is canceled, and the run ends for that reason.
type SuppressedError struct{ Reason string } // unsubscribed or suppressed

func (e *SuppressedError) Error() string {
	return "nothing is sent: the address is on the suppression list (" + e.Reason + ")"
}

// unwanted gives those of the addresses that nothing is to be sent to over a channel,
// with the reasons.
func (a *Action) unwanted(ctx context.Context, channel string, addresses ...string) (map[string]string, error) {
	if a.suppressed == nil || len(addresses) == 0 {
		return nil, nil //nolint:nilnil // a nil map is an empty one
	}
	reasons, err := a.suppressed(ctx, a.OrganizationID, channel, addresses)
	if err != nil {
		return nil, fmt.Errorf("suppressions: %w", err)
	}
	return reasons, nil
}

// wantedRecipients takes out of a mail's recipients (to, cc, bcc) those that nothing is to be sent
// to, and gives them. What can't be read as recipients is left as it is.
func wantedRecipients(ctx context.Context, a *Action, params map[string]any) (left []string, err error) {
	lists := map[string][]*mail.Address{}
	var all []string
	for _, name := range []string{"to", "cc", "bcc"} {
		if name != "to" && params[name] == nil {
			continue
		}
		list, err := recipientsOf(name, params[name])
		if err != nil {
			return nil, nil //nolint:nilerr // whoever makes the message says so
		}
		lists[name] = list
		all = append(all, addresses(list)...)
	}
	reasons, err := a.unwanted(ctx, "email", all...)
	if err != nil || len(reasons) == 0 {
		return nil, err
	}
	for _, name := range []string{"to", "cc", "bcc"} {
		keep := []any{}
		for _, r := range lists[name] {
			if _, out := reasons[r.Address]; !out {
				keep = append(keep, r.String())
			} else if !slices.Contains(left, r.Address) {
				left = append(left, r.Address)
			}
		}
		switch {
		case len(keep) > 0:
			params[name] = keep
		case name == "to":
			return nil, &SuppressedError{reasons[lists["to"][0].Address]}
		default:
			delete(params, name)
		}
	}
	return left, nil
}
