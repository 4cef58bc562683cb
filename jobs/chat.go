package jobs

// Action types chat and push: one message through a shoutrrr URL, of the action or
// of the organization's integration (credentials.url). It is sent at least once.
//
// Users name the URL. Its host, where it has one, is checked as a webhook's is,
// before sending: shoutrrr dials by itself, through net/http's default transport,
// which the command guards as well (GuardTransport). URLs hold tokens, so they
// are in no error and no result.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// chatTimeout bounds one message.
const chatTimeout = 30 * time.Second

// chatForms are some of the URLs that there are.
const chatForms = "use a shoutrrr URL such as slack://…, discord://…, telegram://…, ntfy://host/topic or gotify://host/token"

type chatHandler struct {
	channel      string // chat or push
	integrations Integrations
	guard        addressGuard
}

// ChatOutput is the result of chat and push.
type ChatOutput struct {
	Service     string `json:"service"` // the scheme of the URL
	Integration string `json:"integration,omitempty"`
	Provider    string `json:"provider,omitempty"`
	// FailedOver are the integrations that were tried before, with their errors.
	FailedOver []string `json:"failed_over,omitempty"`
}

func (h chatHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Result{}, err
	}
	t, err := textParams(p, "url", "body", "title", "integration")
	if err != nil {
		return Result{}, Permanent(err)
	}
	if strings.TrimSpace(t["body"]) == "" {
		return Result{}, Permanent(errors.New("body: the message is empty"))
	}
	params := types.Params{}
	if t["title"] != "" {
		params.SetTitle(t["title"])
	}
	out := ChatOutput{}
	send := func(ctx context.Context, raw string) error {
		u, err := chatURL(raw)
		if err != nil {
			return Permanent(err)
		}
		out.Service, _, _ = strings.Cut(u.Scheme, "+")
		ctx, cancel := context.WithTimeout(ctx, chatTimeout)
		defer cancel()
		if err := h.allowed(ctx, u); err != nil {
			return err
		}
		return sendChat(ctx, raw, t["body"], params)
	}
	if raw := strings.TrimSpace(t["url"]); raw != "" {
		err := send(ctx, raw)
		return Result{Output: out}, err
	}
	i, failed, err := deliver(ctx, h.integrations, a, h.channel, t["integration"], " (credentials.url: a shoutrrr URL), or give the action a url",
		func(ctx context.Context, i *Integration) error {
			u, err := i.need("url")
			if err != nil {
				return err
			}
			return send(ctx, u[0])
		})
	if err != nil {
		return Result{}, err
	}
	out.Integration, out.Provider, out.FailedOver = i.Identifier, i.Provider, failed
	return Result{Output: out}, nil
}

// chatURL reads a URL without ever putting it into an error.
func chatURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("url: %s", chatForms)
	}
	service, _, _ := strings.Cut(u.Scheme, "+")
	known := (&router.ServiceRouter{}).ListServices()
	if !slices.Contains(known, service) {
		slices.Sort(known)
		return nil, fmt.Errorf("url: there is no service %q: %s (known: %s)", excerpt(service), chatForms, strings.Join(known, ", "))
	}
	return u, nil
}

// allowed refuses URLs that lead into private networks. A host that no name server
// knows is none: many services keep a token in its place.
func (h chatHandler) allowed(ctx context.Context, u *url.URL) error {
	for _, host := range []string{u.Hostname(), u.Query().Get("host")} {
		if host == "" {
			continue
		}
		addresses := []netip.Addr{}
		if ip, err := netip.ParseAddr(host); err == nil {
			addresses = append(addresses, ip)
		} else if addresses, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			continue
		}
		for _, address := range addresses {
			if kind := h.guard.refuses(address); kind != "" {
				return Permanent(fmt.Errorf("url: %w", &refusedAddressError{address.Unmap(), kind}))
			}
		}
	}
	return nil
}

// sendChat sends, and gives up waiting when ctx ends: shoutrrr knows no contexts.
func sendChat(ctx context.Context, raw, body string, params types.Params) error {
	type failure struct {
		err       error
		permanent bool
	}
	done := make(chan failure, 1)
	go func() {
		service, err := (&router.ServiceRouter{}).Locate(raw)
		if err != nil {
			done <- failure{err, true}
			return
		}
		done <- failure{service.Send(body, &params), false}
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("the service did not answer: %w", ctx.Err())
	case f := <-done:
		if f.err == nil {
			return nil
		}
		err := errors.New(withoutURL(f.err.Error(), raw))
		if f.permanent {
			return Permanent(fmt.Errorf("url: %w; %s", err, chatForms))
		}
		return err
	}
}

// withoutURL takes what is secret in a URL out of an error's text.
func withoutURL(text, raw string) string {
	secrets := []string{raw}
	if u, err := url.Parse(raw); err == nil {
		password, _ := u.User.Password()
		secrets = append(secrets, u.RequestURI(), u.RawQuery, strings.Trim(u.Path, "/"), password, u.User.Username())
		secrets = append(secrets, strings.Split(u.Path, "/")...)
		if !strings.Contains(u.Hostname(), ".") {
			secrets = append(secrets, u.Hostname())
		}
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		if len(s) >= 6 {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return oneLine(text)
}

func (h chatHandler) Validate(params json.RawMessage) error {
	if err := validateText(params, "url", "body", "title", "integration"); err != nil {
		return err
	}
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	if s, _ := p["url"].(string); constant(s) {
		_, err = chatURL(strings.TrimSpace(s))
	}
	return err
}

// GuardTransport makes net/http's default transport refuse what webhooks refuse
// to dial. It is for programs of which nothing else uses that transport.
func GuardTransport(allow []netip.Prefix) {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return
	}
	guard := addressGuard{allow: slices.Clone(allow)}
	dialer := &net.Dialer{Timeout: webhookConnectTimeout, Control: guard.control}
	t.DialContext, t.Proxy = dialer.DialContext, nil
}
