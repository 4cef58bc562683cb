package jobs

// Addresses that nothing is to be sent to, whoever has them: they are known only once
// an action's templates are rendered, so the handlers that send to addresses ask.

import (
	"context"
	"fmt"
	"net/mail"
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

// wantedRecipients takes out of a mail's recipients those that nothing is to be sent
// to, and gives them. What can't be read as recipients is left as it is.
func wantedRecipients(ctx context.Context, a *Action, params map[string]any) (left []string, err error) {
	to, err := recipientsOf(params["to"])
	if err != nil {
		return nil, nil //nolint:nilerr // whoever makes the message says so
	}
	addresses := make([]string, len(to))
	for i, r := range to {
		addresses[i] = r.Address
	}
	reasons, err := a.unwanted(ctx, "email", addresses...)
	if err != nil || len(reasons) == 0 {
		return nil, err
	}
	var keep []any
	for _, r := range to {
		if _, out := reasons[r.Address]; out {
			left = append(left, r.Address)
		} else {
			keep = append(keep, (&mail.Address{Name: r.Name, Address: r.Address}).String())
		}
	}
	if len(keep) == 0 {
		return nil, &SuppressedError{reasons[left[0]]}
	}
	params["to"] = keep
	return left, nil
}
