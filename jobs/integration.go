package jobs

// What sends for an organization: rows of the table integrations.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Integration is one that is active.
type Integration struct {
	Identifier string
	Provider   string // provider_id
	// Credentials are a flat JSON object, as in Novu's API.
	Credentials map[string]any
}

// Integrations finds organizations' integrations.
type Integrations interface {
	// Find gives the organization's integration for a channel: the named one, else
	// the primary one, else the first by priority; nil when there is none.
	Find(ctx context.Context, organization, channel, identifier string) (*Integration, error)
}

// ErrNoIntegration says that nothing is set up to send over a channel.
var ErrNoIntegration = errors.New("no active integration")

// noIntegrationError is such an error that says what to do.
type noIntegrationError struct{ text string }

func (e *noIntegrationError) Error() string { return e.text }

func (e *noIntegrationError) Unwrap() error { return ErrNoIntegration }

func noIntegrationf(format string, args ...any) error {
	return Permanent(&noIntegrationError{fmt.Sprintf(format, args...)})
}

// find is Find with errors that say what to do.
func findIntegration(ctx context.Context, all Integrations, a *Action, channel, identifier, otherwise string) (*Integration, error) {
	if all == nil {
		return nil, errNoStore
	}
	i, err := all.Find(ctx, a.OrganizationID, channel, identifier)
	if err != nil {
		return nil, fmt.Errorf("integrations: %w", err)
	}
	switch {
	case i == nil && identifier != "":
		return nil, noIntegrationf("organization %q has no active %s integration %q: add it to pgautomate.integrations", a.OrganizationID, channel, identifier)
	case i == nil:
		return nil, noIntegrationf("organization %q has no active %s integration: add one to pgautomate.integrations%s", a.OrganizationID, channel, otherwise)
	}
	return i, nil
}

// credential is one of an integration's credentials as text; "" when it is not there.
func (i *Integration) credential(name string) string {
	switch v := i.Credentials[name].(type) {
	case string:
		return v
	case json.Number, bool:
		return fmt.Sprint(v)
	default:
		return ""
	}
}

// need gives credentials that must be there.
func (i *Integration) need(names ...string) ([]string, error) {
	values := make([]string, len(names))
	for n, name := range names {
		if values[n] = i.credential(name); values[n] == "" {
			return nil, Permanentf("integration %q (%s) has no credentials.%s: set it in pgautomate.integrations", i.Identifier, i.Provider, name)
		}
	}
	return values, nil
}
