package jobs

// The built-in action types and what they need to know.

import (
	"log/slog"
	"net/netip"
	"slices"
)

// Config is what the built-in action types need. Everything may be left out;
// what is missing shows when an action of that type is saved or runs.
type Config struct {
	// SMTP sends e-mail. Without a URL every email action fails, saying so.
	SMTP SMTP
	// Webhook bounds and signs HTTP calls.
	Webhook Webhook
	// Store carries out move, exit, enter_stage, update_row and insert_row.
	Store Store
	// Integrations knows what sends e-mail, sms, push and chat.
	Integrations Integrations
	// Queries asks the queries of branch and wait_until.
	Queries Queries
	// Replies knows the leads' replies, for wait_for_reply.
	Replies Replies
	// Awaiting looks after what wait_until waits for.
	Awaiting Awaiting
	// Notifier carries out notify and in_app.
	Notifier Notifier
	// Logger gets the messages of log actions, at debug. Default slog.Default().
	Logger *slog.Logger
}

// SMTP is the e-mail integration of organizations that have none of their own.
type SMTP struct {
	// URL is smtp://[user:password@]host[:port], with STARTTLS when the server
	// offers it, or smtps:// for TLS from the start. Ports default to 587 and 465.
	URL string
	// From is the sender of mails that name none. Default pgautomate@localhost.
	From string
	// Only sends all mail there, whatever integrations there are: to the local mailbox.
	Only bool
}

// Webhook is how webhook actions call out.
type Webhook struct {
	// Secret signs requests after Standard Webhooks: base64 of 24 to 64 bytes,
	// with or without whsec_ in front. Empty: requests carry no signature.
	Secret string
	// Allow are networks that may be called although they are private (ParseAllow).
	Allow []netip.Prefix
}

// Defaults is a registry of the built-in action types. It fails when a setting
// is wrong; the error is one line that names it.
func Defaults(cfg Config) (*Registry, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	webhook, err := newWebhook(cfg.Webhook)
	if err != nil {
		return nil, err
	}
	guard := addressGuard{allow: slices.Clone(cfg.Webhook.Allow)}
	email, err := newEmail(cfg.SMTP, cfg.Integrations, webhook, guard)
	if err != nil {
		return nil, err
	}
	r := NewRegistry()
	for _, t := range []struct {
		name    string
		handler Handler
		params  RegisterOption
		channel string
	}{
		{"log", logHandler{cfg.Logger}, WithParams([]string{"message"}), ""},
		{"email", email, WithParams([]string{"to", "subject"}, "body", "html", "from", "reply_to", "cc", "bcc", "headers", "attachments", "integration"), "email"},
		{"sms", smsHandler{cfg.Integrations, webhook}, WithParams([]string{"to", "body"}, "integration"), "sms"},
		{"push", chatHandler{"push", cfg.Integrations, guard}, WithParams([]string{"body"}, "url", "title", "integration"), "push"},
		{"chat", chatHandler{"chat", cfg.Integrations, guard}, WithParams([]string{"body"}, "url", "title", "integration"), "chat"},
		{"webhook", webhook, WithParams([]string{"url"}, "method", "headers", "body"), ""},
		{"wait", waitHandler{}, WithParams(nil, "for", "until", "window"), ""},
		{"wait_for_reply", replyHandler{cfg.Store, cfg.Replies}, WithParams([]string{"timeout"}, "channel", "contact", "on_reply", "on_timeout"), ""},
		{"wait_until", untilHandler{cfg.Store, cfg.Queries, cfg.Awaiting}, WithParams([]string{"query", "timeout"}, "on_match", "on_timeout"), ""},
		{"branch", branchHandler{cfg.Store, cfg.Queries}, WithParams([]string{"arms"}, "else"), ""},
		{"notify", notifyHandler{cfg.Notifier}, WithParams([]string{"workflow", "to"}, "payload"), ""},
		{"in_app", inAppHandler{cfg.Notifier}, WithParams([]string{"subscriber", "body"}, "subject"), "in_app"},
		{"move", newMove(cfg.Store), WithParams([]string{"stage"}, "pipeline", "restart"), ""},
		{"exit", newExit(cfg.Store), WithParams(nil, "reason"), ""},
		{"enter_stage", newEnterStage(cfg.Store), WithParams([]string{"pipeline", "stage"}, "lead"), ""},
		{"update_row", newUpdateRow(cfg.Store), WithParams([]string{"set"}, "object"), ""},
		{"insert_row", newInsertRow(cfg.Store), WithParams([]string{"table", "values"}), ""},
	} {
		if err := r.Register(t.name, t.handler, t.params, WithChannel(t.channel)); err != nil {
			return nil, err
		}
	}
	return r, nil
}
