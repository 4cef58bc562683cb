package jobs

// Action type webhook: one HTTP request.
//
// It is sent at least once; webhook-id and Idempotency-Key are
// Action.IdempotencyKey, the same for every attempt, so that the receiver can
// tell. With a secret, requests are signed after Standard Webhooks; without one
// they carry no signature.
//
// Users name the URL, so the address that is really dialed is checked, whatever
// name, redirect or DNS answer led there: private networks and the machine itself
// are refused unless Webhook.Allow lists them. Redirects are not followed (a
// redirected POST would become a GET, or be sent to somebody unknown), and
// proxies of the environment are not used (they would dial for us, unchecked).

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Bounds of webhook calls.
const (
	webhookConnectTimeout = 10 * time.Second
	webhookTimeout        = 30 * time.Second
	webhookReadLimit      = 64 << 10 // bytes read of an answer
	webhookKeepLimit      = 4 << 10  // bytes kept in the result
	webhookMaxRetryAfter  = 24 * time.Hour
)

const headerIdempotencyKey = "Idempotency-Key"

// WebhookOutput is the result of a webhook action.
type WebhookOutput struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type,omitempty"`
	Body        string `json:"body"` // its first 4 KiB
}

type webhookHandler struct {
	client  *http.Client
	signer  *standardwebhooks.Webhook // nil: not signed
	secret  string                    // what signer has, as it is written
	timeout time.Duration
}

func newWebhook(cfg Webhook) (*webhookHandler, error) {
	h := &webhookHandler{timeout: webhookTimeout, secret: cfg.Secret}
	if cfg.Secret != "" {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(cfg.Secret, "whsec_"))
		if err != nil || len(key) < 24 || len(key) > 64 {
			return nil, errors.New("PGAUTOMATE_WEBHOOK_SECRET: use whsec_ and the base64 of 24 to 64 random bytes")
		}
		if h.signer, err = standardwebhooks.NewWebhookRaw(key); err != nil {
			return nil, fmt.Errorf("PGAUTOMATE_WEBHOOK_SECRET: %w", err)
		}
	}
	guard := addressGuard{allow: slices.Clone(cfg.Allow)}
	dialer := &net.Dialer{Timeout: webhookConnectTimeout, Control: guard.control}
	h.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    webhookConnectTimeout,
			ResponseHeaderTimeout:  webhookTimeout,
			MaxResponseHeaderBytes: webhookReadLimit,
			MaxIdleConns:           100,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h, nil
}

// Close lets go of idle connections.
func (h *webhookHandler) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

func (h *webhookHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars, KeepTypes("body"))
	if err != nil {
		return Result{}, err
	}
	call, err := webhookCallOf(p)
	if err != nil {
		return Result{}, Permanent(err)
	}
	body, contentType, err := h.body(ctx, a, call.method, p["body"])
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, call.method, call.url.String(), bytes.NewReader(body))
	if err != nil {
		return Result{}, Permanentf("url: %w", err)
	}
	req.Header.Set("User-Agent", "pgautomate")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for name, value := range call.headers {
		req.Header.Set(name, value)
	}
	key, now := a.IdempotencyKey(), a.Now
	if now.IsZero() {
		now = time.Now()
	}
	req.Header.Set(headerIdempotencyKey, key)
	req.Header.Set(standardwebhooks.HeaderWebhookID, key)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if h.signer != nil {
		signature, err := h.signer.Sign(key, now, body)
		if err != nil {
			return Result{}, Permanentf("the request can't be signed: check PGAUTOMATE_WEBHOOK_SECRET: %w", err)
		}
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return Result{}, h.explain(ctx, call.url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, webhookReadLimit))
	if err != nil && resp.StatusCode/100 == 2 {
		// It has done its work; only its words are cut short.
		err = nil
	}
	if err != nil {
		return Result{}, h.explain(ctx, call.url, err)
	}
	out := WebhookOutput{
		Status:      resp.StatusCode,
		ContentType: resp.Header.Get("Content-Type"),
		Body:        strings.ReplaceAll(strings.ToValidUTF8(string(answer[:min(len(answer), webhookKeepLimit)]), "\uFFFD"), "\x00", "\uFFFD"),
	}
	return Result{Output: out}, answerError("webhook", call.url, resp, out.Body)
}

func (h *webhookHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	// What a template stands in is checked when it is rendered.
	if s, ok := p["url"].(string); ok && isTemplate(s) {
		p["url"] = "https://example.com/"
	}
	if s, ok := p["method"].(string); ok && isTemplate(s) {
		delete(p, "method")
	}
	if headers, ok := p["headers"].(map[string]any); ok {
		for name, v := range headers {
			if s, ok := v.(string); ok && isTemplate(s) {
				headers[name] = ""
			}
		}
	}
	_, err = webhookCallOf(p)
	return err
}

type webhookCall struct {
	method  string
	url     *url.URL
	headers map[string]string
}

var webhookMethods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet}

// reservedHeaders are ours or the connection's. A receiver must be able to trust them.
var reservedHeaders = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade", "Expect", "Keep-Alive",
	"Proxy-Authorization", "Proxy-Connection", headerIdempotencyKey,
	http.CanonicalHeaderKey(standardwebhooks.HeaderWebhookID), http.CanonicalHeaderKey(standardwebhooks.HeaderWebhookTimestamp),
	http.CanonicalHeaderKey(standardwebhooks.HeaderWebhookSignature),
}

func webhookCallOf(p map[string]any) (webhookCall, error) {
	t, err := textParams(p, "url", "method")
	if err != nil {
		return webhookCall{}, err
	}
	c := webhookCall{method: strings.ToUpper(strings.TrimSpace(t["method"])), headers: map[string]string{}}
	if c.method == "" {
		c.method = http.MethodPost
	}
	if !slices.Contains(webhookMethods, c.method) {
		return c, fmt.Errorf("method: %q is not possible: use %s", excerpt(c.method), strings.Join(webhookMethods, ", "))
	}
	c.url, err = url.Parse(strings.TrimSpace(t["url"]))
	if err != nil || (c.url.Scheme != "http" && c.url.Scheme != "https") || c.url.Hostname() == "" {
		// The text may hold a password, so it is not shown.
		return c, errors.New("url: use an address such as https://example.com/path")
	}
	headers, ok := p["headers"].(map[string]any)
	if !ok && p["headers"] != nil {
		return c, errors.New(`headers: use an object such as {"X-Source": "crm"}`)
	}
	for name := range headers {
		value, err := textParam(headers, name)
		if err != nil {
			return c, fmt.Errorf("headers.%w", err)
		}
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if !isHeaderName(name) {
			return c, fmt.Errorf("headers: %q is not a header's name", excerpt(name))
		}
		if slices.Contains(reservedHeaders, canonical) {
			return c, fmt.Errorf("headers: %s is set by pgautomate: leave it out", canonical)
		}
		if err := headerValue("headers."+name, value); err != nil {
			return c, err
		}
		if strings.ContainsFunc(value, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f }) {
			return c, fmt.Errorf("headers.%s: control characters are not allowed", name)
		}
		if _, twice := c.headers[canonical]; twice {
			return c, fmt.Errorf("headers: %s stands there twice", canonical)
		}
		c.headers[canonical] = value
	}
	return c, nil
}

func isHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r > 0x7e || r <= ' ' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}

// DefaultWebhookBody is what a webhook sends when its parameters have no body.
type DefaultWebhookBody struct {
	Type           string    `json:"type"`      // "pgautomate.action"
	Timestamp      time.Time `json:"timestamp"` // when the action became due
	ActionID       string    `json:"action_id"`
	OrganizationID string    `json:"organization_id"`
	LeadID         string    `json:"lead_id"`
	ObjectType     string    `json:"object_type,omitempty"`
	Trigger        any       `json:"trigger,omitempty"` // the firing, for a trigger's action
	Data           any       `json:"data"`              // the lead's or object's row
}

// body is the request's content: the parameter as rendered, or the default
// document. It is the same for every attempt as long as the data are.
func (h *webhookHandler) body(ctx context.Context, a *Action, method string, rendered any) ([]byte, string, error) {
	given, err := decodeParams(a.Params)
	if err != nil {
		return nil, "", Permanent(err)
	}
	if given["body"] == nil {
		if method == http.MethodGet || method == http.MethodDelete {
			return nil, "", nil
		}
		doc := DefaultWebhookBody{
			Type: "pgautomate.action", Timestamp: a.PerformAt.UTC(), ActionID: strconv.FormatInt(a.ID, 10),
			OrganizationID: a.OrganizationID, LeadID: a.LeadID, ObjectType: a.ObjectType,
		}
		for name, into := range map[string]*any{"trigger": &doc.Trigger, "lead": &doc.Data} {
			v, err := a.Vars.Get(ctx, name)
			if err != nil {
				return nil, "", err
			}
			*into = plain(v)
		}
		if doc.Data == nil {
			v, err := a.Vars.Get(ctx, "object")
			if err != nil {
				return nil, "", err
			}
			doc.Data = plain(v)
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return nil, "", Permanentf("body: %w", err)
		}
		return data, "application/json", nil
	}
	switch v := rendered.(type) {
	case nil: // a template that gave nothing
		return nil, "", nil
	case string:
		if trimmed := strings.TrimSpace(v); strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
			if json.Valid([]byte(v)) {
				return []byte(v), "application/json", nil
			}
		}
		return []byte(v), "text/plain; charset=utf-8", nil
	default:
		data, err := json.Marshal(v)
		if err != nil {
			return nil, "", Permanentf("body: %w", err)
		}
		return data, "application/json", nil
	}
}

func (h *webhookHandler) explain(ctx context.Context, u *url.URL, err error) error {
	return h.explainCall(ctx, "webhook", u, err)
}

// explainCall says what became of a call that got no answer; what names it.
func (h *webhookHandler) explainCall(ctx context.Context, what string, u *url.URL, err error) error {
	var refused *refusedAddressError
	switch {
	case errors.As(err, &refused):
		return Permanentf("%s to %s: %w", what, u.Host, refused)
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s to %s: no answer within %s", what, u.Host, h.timeout)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return fmt.Errorf("%s to %s: %s", what, u.Host, oneLine(err.Error()))
}

// answerError is what an answer means: nil for 2xx; what names the call.
func answerError(what string, u *url.URL, resp *http.Response, body string) error {
	code := resp.StatusCode
	if code/100 == 2 {
		return nil
	}
	err := fmt.Errorf("%s to %s answered %d %s", what, u.Host, code, http.StatusText(code))
	if body = excerpt(body); body != "" {
		err = fmt.Errorf("%w: %s", err, body)
	}
	switch {
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		if after, ok := retryAfter(resp.Header, time.Now()); ok {
			return RetryAfter(after, err)
		}
		return err
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code >= 500:
		return err
	case code/100 == 3:
		return Permanentf("%w (redirects are not followed: name the final address, %s)", err, excerpt(resp.Header.Get("Location")))
	default:
		return Permanent(err)
	}
}

// retryAfter reads the header Retry-After: seconds, or a date, which is compared
// with the answer's own Date so that the clocks need not agree. The result is at
// least a second and at most 24 hours.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if s == "" {
		return 0, false
	}
	var after time.Duration
	if seconds, err := strconv.ParseUint(s, 10, 63); err == nil {
		after = webhookMaxRetryAfter
		if seconds < uint64(webhookMaxRetryAfter/time.Second) {
			after = time.Duration(seconds) * time.Second
		}
	} else if at, err := http.ParseTime(s); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		after = at.Sub(now)
	} else {
		return 0, false
	}
	return min(max(after, time.Second), webhookMaxRetryAfter), true
}

// ParseAllow reads PGAUTOMATE_WEBHOOK_ALLOW: networks in CIDR form or single
// addresses, separated by commas or spaces.
func ParseAllow(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			addr, aerr := netip.ParseAddr(part)
			if aerr != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("PGAUTOMATE_WEBHOOK_ALLOW: %q is not a network: use CIDRs such as 10.1.0.0/16, separated by commas", excerpt(part))
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("PGAUTOMATE_WEBHOOK_ALLOW: %q: write an IPv4 network in its own form, such as 10.1.0.0/16", excerpt(part))
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

// addressGuard decides which addresses may be dialed.
type addressGuard struct{ allow []netip.Prefix }

type refusedAddressError struct {
	addr netip.Addr
	kind string
}

func (e *refusedAddressError) Error() string {
	return fmt.Sprintf("%s is %s address: to call it, list its network in PGAUTOMATE_WEBHOOK_ALLOW", e.addr, e.kind)
}

// control is a net.Dialer's Control: it sees the address that is about to be dialed.
func (g addressGuard) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("the address %q can't be checked: %w", address, err)
	}
	if kind := g.refuses(at.Addr()); kind != "" {
		return &refusedAddressError{at.Addr(), kind}
	}
	return nil
}

// special are networks that are no public unicast addresses, beside those that
// netip knows: the IANA special-purpose registries.
var special = func() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// refuses names the kind of an address that may not be dialed, "" if it may.
func (g addressGuard) refuses(addr netip.Addr) string {
	addr = addr.WithZone("").Unmap()
	within := func(p netip.Prefix) bool { return p.Contains(addr) }
	switch {
	case !addr.IsValid():
		return "an invalid"
	case slices.ContainsFunc(g.allow, within):
		return ""
	case addr.IsLoopback():
		return "a loopback"
	case addr.IsUnspecified():
		return "an unspecified"
	case addr.IsPrivate():
		return "a private"
	case addr.IsLinkLocalUnicast():
		return "a link-local"
	case addr.IsMulticast():
		return "a multicast"
	case slices.ContainsFunc(special, within):
		return "a special-purpose"
	}
	// Addresses that carry an IPv4 address are what that one is.
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return g.refuses(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo4.Contains(addr):
		return g.refuses(netip.AddrFrom4([4]byte(b[2:6])))
	default:
		return ""
	}
}
