package mailbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Handler shows the mails: a list, and with ?id=N one of them. All links are
// query strings, so it can be mounted anywhere. A mail is foreign text: it is
// escaped, and its HTML is shown only in a sandbox that runs and loads nothing.
// With Accept: application/json the list comes as JSON.
func (m *Mailbox) Handler() http.Handler { return http.HandlerFunc(m.serveHTTP) }

const style = `
:root{color-scheme:light dark;--line:#8884;--dim:#777;--accent:#2b6cb0}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1.5rem}
h1{font-size:1.4rem;margin:0 0 1rem}a{color:var(--accent)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--dim);font-weight:600;font-size:.85rem}td.time{white-space:nowrap;color:var(--dim)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);border-radius:.4rem;padding:1rem;font:inherit}
iframe{width:100%;height:24rem;border:1px solid var(--line);border-radius:.4rem;background:#fff}
.empty{color:var(--dim)}
`

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"join": func(s []string) string { return strings.Join(s, ", ") },
	"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{if .Message}}{{or .Message.Subject "(no subject)"}}{{else}}Mailbox{{end}}</title><style>` + style + `</style></head><body>
{{with .Message}}<p><a href="?">All mails</a></p>
<h1>{{or .Subject "(no subject)"}}</h1>
<dl><dt>From</dt><dd>{{or .HeaderFrom .From}}</dd><dt>To</dt><dd>{{or .HeaderTo (join .To)}}</dd>
{{with .ReplyTo}}<dt>Reply to</dt><dd>{{.}}</dd>{{end}}<dt>Received</dt><dd>{{time .ReceivedAt}}</dd><dt>Message-ID</dt><dd>{{.MessageID}}</dd>
{{range .Attachments}}<dt>Attachment</dt><dd>{{or .Name "(no name)"}}, {{.ContentType}}, {{len .Content}} bytes</dd>{{end}}</dl>
{{if .Text}}<pre>{{.Text}}</pre>{{end}}
{{if .HTML}}<iframe sandbox title="HTML part" src="?id={{.ID}}&amp;part=html"></iframe>{{end}}
<p><a href="?id={{.ID}}&amp;part=raw">Source</a></p>
{{else}}<h1>Mailbox</h1>
<p>{{.Count}} {{if eq .Count 1}}mail has{{else}}mails have{{end}} arrived{{if gt .Count .Kept}}; the newest {{.Kept}} are kept{{end}}. Nothing here leaves this machine. <a href="?">Refresh</a></p>
{{if .Messages}}<table><thead><tr><th scope="col">Received</th><th scope="col">To</th><th scope="col">Subject</th></tr></thead><tbody>
{{range .Messages}}<tr><td class="time">{{time .ReceivedAt}}</td><td>{{join .To}}</td><td><a href="?id={{.ID}}">{{or .Subject "(no subject)"}}</a></td></tr>
{{end}}</tbody></table>{{else}}<p class="empty">No mail yet.</p>{{end}}{{end}}
</body></html>
`))

// pagePolicy lets in the one style sheet, by its hash, and the frame with the HTML part.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
}()

const htmlPolicy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"

type summary struct {
	ID         int       `json:"id"`
	ReceivedAt time.Time `json:"received_at"`
	From       string    `json:"from"`
	To         []string  `json:"to"`
	Subject    string    `json:"subject"`
	MessageID  string    `json:"message_id"`
	Text       string    `json:"text"`
}

func (m *Mailbox) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "the mailbox can only be read", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	var data struct {
		Message     *Message
		Messages    []Message
		Count, Kept int
	}
	if id := r.URL.Query().Get("id"); id != "" {
		n, _ := strconv.Atoi(id)
		msg, found := m.Message(n)
		if !found {
			http.Error(w, "this mail is not here (any more)", http.StatusNotFound)
			return
		}
		switch r.URL.Query().Get("part") {
		case "html":
			h.Set("Content-Security-Policy", htmlPolicy)
			h.Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(msg.HTML))
			return
		case "raw":
			h.Set("Content-Security-Policy", "default-src 'none'")
			h.Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write(msg.Raw)
			return
		}
		data.Message = &msg
	} else {
		data.Messages, data.Count = m.Messages(), m.Count()
		data.Kept = len(data.Messages)
		slices.Reverse(data.Messages)
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			list := make([]summary, len(data.Messages))
			for i, msg := range data.Messages {
				list[i] = summary{msg.ID, msg.ReceivedAt, msg.From, msg.To, msg.Subject, msg.MessageID, msg.Text}
			}
			h.Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"data": list, "count": data.Count})
			return
		}
	}
	var buf bytes.Buffer
	if err := page.Execute(&buf, data); err != nil {
		http.Error(w, "the page can't be shown", http.StatusInternalServerError)
		return
	}
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(buf.Bytes())
}
