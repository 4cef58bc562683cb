package jobs

// A question to an address that users name: what conditions of type webhook ask. The
// same guards hold as for the action type webhook.

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// askTimeout is how long one attempt may take.
	askTimeout = 5 * time.Second
	// askAttempts is how often it is asked when the address does not answer, or with 429 or 5xx.
	askAttempts = 3
	// HeaderHMAC is Novu's: the organization's id, as its environment, signed with the secret.
	HeaderHMAC = "Nv-Hmac-256"
)

// Asker asks an address something; the handler of the action type webhook does.
type Asker interface {
	// Ask posts the question and gives the answer, which is JSON. It takes some seconds
	// for each of a few attempts.
	Ask(ctx context.Context, a *Action, address string, question any) (json.RawMessage, error)
}

// CheckAddress says whether an address that users name can be called at all.
func CheckAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		// The text may hold a password, so it is not shown.
		return nil, errors.New("use an address such as https://example.com/path")
	}
	return u, nil
}

// Ask implements Asker.
func (h *webhookHandler) Ask(ctx context.Context, a *Action, address string, question any) (json.RawMessage, error) {
	u, err := CheckAddress(address)
	if err != nil {
		return nil, Permanent(err)
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, Permanent(err)
	}
	for attempt := 1; ; attempt++ {
		answer, err := h.ask(ctx, a, u, body)
		if err == nil {
			return answer, nil
		}
		if class, _ := Classify(err); class == ClassPermanent || attempt == askAttempts || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Duration(attempt) * 300 * time.Millisecond):
		}
	}
}

func (h *webhookHandler) ask(ctx context.Context, a *Action, u *url.URL, body []byte) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, Permanent(err)
	}
	req.Header.Set("User-Agent", "pgautomate")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	key, now := a.IdempotencyKey(), a.Now
	if now.IsZero() {
		now = time.Now()
	}
	if h.signer != nil {
		signature, err := h.signer.Sign(key, now, body)
		if err != nil {
			return nil, Permanentf("the request can't be signed: check PGAUTOMATE_WEBHOOK_SECRET: %w", err)
		}
		req.Header.Set(standardwebhooks.HeaderWebhookID, key)
		req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
		mac := hmac.New(sha256.New, []byte(h.secret))
		mac.Write([]byte(a.OrganizationID))
		req.Header.Set(HeaderHMAC, hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("webhook to %s: no answer within %s", u.Host, askTimeout)
		}
		return nil, h.explain(ctx, u, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, webhookReadLimit+1))
	if err != nil {
		return nil, h.explain(ctx, u, err)
	}
	if err := answerError("webhook", u, resp, string(answer[:min(len(answer), webhookKeepLimit)])); err != nil {
		return nil, err
	}
	switch {
	case len(answer) > webhookReadLimit:
		return nil, Permanentf("webhook to %s: the answer is larger than %d KiB", u.Host, webhookReadLimit>>10)
	case !json.Valid(answer):
		return nil, Permanentf("webhook to %s: the answer is no JSON", u.Host)
	}
	return answer, nil
}
