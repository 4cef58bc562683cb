package jobs

// What sends for an organization: rows of the table integrations. A message goes
// through the first that may send it; where that one fails, through the next.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Integration is one that is active.
type Integration struct {
	Identifier string
	Provider   string // provider_id
	// Credentials are a flat JSON object, as in Novu's API.
	Credentials map[string]any
	// Conditions say when it is used, in the form of a workflow step's filters; none: always.
	Conditions json.RawMessage
}

// Integrations finds organizations' integrations.
type Integrations interface {
	// List gives the organization's active integrations for a channel in the order in
	// which they are tried: the primary one, then by priority; with an identifier only
	// that one.
	List(ctx context.Context, organization, channel, identifier string) ([]Integration, error)
}

// Providers are who can send over a channel; nil: any provider, by the address that
// its credentials name.
func Providers(channel string) []string {
	switch channel {
	case "email":
		return []string{"nodemailer", "email-webhook"}
	case "sms":
		return []string{"twilio", "generic-sms"}
	default:
		return nil
	}
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

// deliver sends through the first integration that takes the message, and names those
// that did not. When all fail the error is theirs: worth another attempt if one of
// them is. otherwise ends the sentence that says that there is none.
func deliver(ctx context.Context, all Integrations, a *Action, channel, identifier, otherwise string,
	send func(ctx context.Context, i *Integration) error,
) (by *Integration, failedOver []string, err error) {
	list, err := eligible(ctx, all, a, channel, identifier)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case len(list) == 0 && identifier != "":
		return nil, nil, noIntegrationf("organization %q has no active %s integration %q: add it to pgautomate.integrations", a.OrganizationID, channel, identifier)
	case len(list) == 0:
		return nil, nil, noIntegrationf("organization %q has no active %s integration: add one to pgautomate.integrations%s", a.OrganizationID, channel, otherwise)
	}
	var failures []error
	for n := range list {
		i := &list[n]
		if err = send(ctx, i); err == nil {
			return i, failedOver, nil
		}
		if ctx.Err() != nil {
			return nil, failedOver, err
		}
		failures = append(failures, err)
		failedOver = append(failedOver, fmt.Sprintf("%s: %s", i.Identifier, excerpt(err.Error())))
	}
	return nil, failedOver, allFailed(failures, failedOver)
}

// allFailed is one error for those of all integrations.
func allFailed(failures []error, said []string) error {
	if len(failures) == 1 {
		return failures[0]
	}
	text := fmt.Errorf("no integration could send it: %s", strings.Join(said, "; "))
	soonest := time.Duration(-1)
	for _, err := range failures {
		switch class, wait := Classify(err); class {
		case ClassPermanent:
		case ClassRetryAfter:
			if soonest < 0 || wait < soonest {
				soonest = wait
			}
		default:
			return text
		}
	}
	if soonest >= 0 {
		return RetryAfter(soonest, text)
	}
	return Permanent(text)
}

// eligible are the integrations that may send the message: those whose conditions
// hold, then those without any, each in their order.
func eligible(ctx context.Context, all Integrations, a *Action, channel, identifier string) ([]Integration, error) {
	if all == nil {
		return nil, errNoStore
	}
	list, err := all.List(ctx, a.OrganizationID, channel, identifier)
	if err != nil {
		return nil, fmt.Errorf("integrations: %w", err)
	}
	var special, general []Integration
	for _, i := range list {
		switch {
		case identifier != "" || !i.conditional():
			general = append(general, i)
		case a.Meets == nil:
		default:
			meets, err := a.Meets(ctx, i.Conditions)
			if err != nil {
				return nil, fmt.Errorf("conditions of integration %q: %w", i.Identifier, err)
			}
			if meets {
				special = append(special, i)
			}
		}
	}
	return append(special, general...), nil
}

// conditional says whether there is a condition to meet.
func (i *Integration) conditional() bool {
	switch string(bytes.TrimSpace(i.Conditions)) {
	case "", "null", "[]", "{}":
		return false
	default:
		return true
	}
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

// post makes one request to an integration's address, which is in the credential
// named; answers other than 2xx are errors, sorted as those of webhooks are.
func (h *webhookHandler) post(ctx context.Context, a *Action, i *Integration, credential, at, contentType string, body []byte, prepare func(*http.Request)) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, Permanentf("integration %q: credentials.%s is no http(s) address", i.Identifier, credential)
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, Permanentf("integration %q: credentials.%s: %w", i.Identifier, credential, err)
	}
	req.Header.Set("User-Agent", "pgautomate")
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	req.Header.Set(headerIdempotencyKey, a.IdempotencyKey())
	prepare(req)
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, h.explainCall(ctx, a.Type, u, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, webhookReadLimit))
	if err != nil && resp.StatusCode/100 != 2 {
		return nil, h.explainCall(ctx, a.Type, u, err)
	}
	said := strings.ToValidUTF8(string(answer[:min(len(answer), webhookKeepLimit)]), "\uFFFD")
	return answer, answerError(a.Type, u, resp, strings.ReplaceAll(said, "\x00", "\uFFFD"))
}
