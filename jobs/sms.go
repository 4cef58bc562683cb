package jobs

// Action type sms: one text message through the organization's SMS integration,
// twilio or generic-sms (any HTTP endpoint that takes JSON). It is sent at least
// once; where the provider heeds an Idempotency-Key, a repeated attempt is
// no second message. The addresses that are dialed are checked as for webhooks.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxSMS bounds a message, in characters: ten parts of the longest kind.
const maxSMS = 1600

// twilioURL is where Twilio is, unless credentials.baseUrl says otherwise.
const twilioURL = "https://api.twilio.com"

type smsHandler struct {
	integrations Integrations
	web          *webhookHandler // its client: guarded, bounded
}

// SMSOutput is the result of an sms action.
type SMSOutput struct {
	Integration string `json:"integration"`
	Provider    string `json:"provider"`
	To          string `json:"to"`
	MessageID   string `json:"message_id,omitempty"`
	// FailedOver are the integrations that were tried before, with their errors.
	FailedOver []string `json:"failed_over,omitempty"`
}

func (h smsHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Result{}, err
	}
	to, body, identifier, err := smsParams(p)
	if err != nil {
		return Result{}, Permanent(err)
	}
	if reasons, err := a.unwanted(ctx, "sms", to); err != nil {
		return Result{}, err
	} else if reason := reasons[to]; reason != "" {
		return Result{}, &SuppressedError{reason}
	}
	var id string
	i, failed, err := deliver(ctx, h.integrations, a, "sms", identifier, " (provider_id twilio, or generic-sms with credentials.baseUrl)",
		func(ctx context.Context, i *Integration) (err error) {
			switch i.Provider {
			case "twilio":
				id, err = h.twilio(ctx, a, i, to, body)
			case "generic-sms":
				id, err = h.generic(ctx, a, i, to, body)
			default:
				err = Permanentf("integration %q: provider %q can't send sms: use twilio, or generic-sms with credentials.baseUrl", i.Identifier, i.Provider)
			}
			return err
		})
	if err != nil {
		return Result{}, err
	}
	return Result{Output: SMSOutput{i.Identifier, i.Provider, to, id, failed}}, nil
}

func smsParams(p map[string]any) (to, body, identifier string, err error) {
	t, err := textParams(p, "to", "body", "integration")
	if err != nil {
		return "", "", "", err
	}
	to = strings.TrimSpace(t["to"])
	switch {
	case to == "":
		return "", "", "", errors.New("to: the template gives no number")
	case strings.ContainsAny(to, "\r\n\x00"):
		return "", "", "", errors.New("to: line breaks are not allowed here (use the filter strip_newlines)")
	case strings.TrimSpace(t["body"]) == "":
		return "", "", "", errors.New("body: the message is empty")
	case utf8.RuneCountInString(t["body"]) > maxSMS:
		return "", "", "", fmt.Errorf("body: %d characters are too many for a text message: %d at most", utf8.RuneCountInString(t["body"]), maxSMS)
	}
	return to, t["body"], t["integration"], nil
}

func (h smsHandler) twilio(ctx context.Context, a *Action, i *Integration, to, body string) (string, error) {
	c, err := i.need("accountSid", "token", "from")
	if err != nil {
		return "", err
	}
	base := i.credential("baseUrl")
	if base == "" {
		base = twilioURL
	}
	form := url.Values{"To": {to}, "Body": {body}}
	if strings.HasPrefix(c[2], "MG") && len(c[2]) == 34 {
		form.Set("MessagingServiceSid", c[2])
	} else {
		form.Set("From", c[2])
	}
	at := strings.TrimSuffix(base, "/") + "/2010-04-01/Accounts/" + url.PathEscape(c[0]) + "/Messages.json"
	answer, err := h.web.post(ctx, a, i, "baseUrl", at, "application/x-www-form-urlencoded", []byte(form.Encode()), func(r *http.Request) { r.SetBasicAuth(c[0], c[1]) })
	if err != nil {
		return "", err
	}
	return member(answer, "sid"), nil
}

// generic sends what Novu's provider of that name sends.
func (h smsHandler) generic(ctx context.Context, a *Action, i *Integration, to, body string) (string, error) {
	c, err := i.need("baseUrl")
	if err != nil {
		return "", err
	}
	message := map[string]string{"to": to, "content": body, "id": a.IdempotencyKey()}
	if from := i.credential("from"); from != "" {
		message["from"], message["sender"] = from, from
	}
	raw, err := json.Marshal(message)
	if err != nil {
		return "", Permanent(err)
	}
	answer, err := h.web.post(ctx, a, i, "baseUrl", c[0], "application/json", raw, func(r *http.Request) {
		for _, key := range [...][2]string{{"apiKeyRequestHeader", "apiKey"}, {"secretKeyRequestHeader", "secretKey"}} {
			if name := i.credential(key[0]); name != "" {
				r.Header.Set(name, i.credential(key[1]))
			}
		}
	})
	if err != nil {
		return "", err
	}
	path := i.credential("idPath")
	if path == "" {
		path = "id"
	}
	return member(answer, strings.Split(path, ".")...), nil
}

// member reads a text or number out of a JSON answer; "" when it isn't there.
func member(answer []byte, path ...string) string {
	var v any
	if decodeJSON(answer, &v) != nil {
		return ""
	}
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	switch v := v.(type) {
	case string:
		return excerpt(v)
	case json.Number:
		return v.String()
	default:
		return ""
	}
}

func (h smsHandler) Validate(params json.RawMessage) error {
	return validateText(params, "to", "body", "integration")
}
