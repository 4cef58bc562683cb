package mailbox

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// maxDepth bounds how deep multiparts are followed.
const maxDepth = 8

// Message is one mail as it arrived. It shares its slices with the mailbox:
// don't change them.
type Message struct {
	ID         int // 1 for the first to arrive
	ReceivedAt time.Time
	From       string   // of the envelope
	To         []string // of the envelope
	// The headers, decoded.
	HeaderFrom, HeaderTo, ReplyTo, Subject string
	MessageID                              string // without < and >
	Header                                 mail.Header
	Text, HTML                             string // the first part of each kind, decoded
	Attachments                            []Attachment
	Raw                                    []byte
}

// Attachment is a part that is neither the text nor the HTML.
type Attachment struct {
	Name, ContentType string
	Content           []byte
}

// parse never fails: what can't be read as a mail is kept raw.
func parse(from string, to []string, raw []byte, at time.Time) Message {
	m := Message{ReceivedAt: at, From: from, To: slices.Clone(to), Raw: raw}
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		m.Text = string(raw)
		return m
	}
	m.Header = msg.Header
	m.HeaderFrom, m.HeaderTo = decoded(msg.Header.Get("From")), decoded(msg.Header.Get("To"))
	m.ReplyTo, m.Subject = decoded(msg.Header.Get("Reply-To")), decoded(msg.Header.Get("Subject"))
	m.MessageID = strings.Trim(strings.TrimSpace(msg.Header.Get("Message-Id")), "<>")
	m.part(msg.Header.Get("Content-Type"), msg.Header.Get("Content-Transfer-Encoding"), "", "", msg.Body, 0)
	return m
}

func (m *Message) part(contentType, encoding, disposition, name string, body io.Reader, depth int) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, params = "text/plain", nil
	}
	if strings.HasPrefix(media, "multipart/") && depth < maxDepth {
		parts := multipart.NewReader(body, params["boundary"])
		for {
			p, err := parts.NextRawPart()
			if err != nil {
				return
			}
			d, dp, _ := mime.ParseMediaType(p.Header.Get("Content-Disposition"))
			m.part(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), d, decoded(dp["filename"]), p, depth+1)
		}
	}
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	content, _ := io.ReadAll(body) // what can be decoded
	text := strings.ReplaceAll(string(content), "\r\n", "\n")
	switch {
	case disposition != "attachment" && media == "text/plain" && m.Text == "":
		m.Text = text
	case disposition != "attachment" && media == "text/html" && m.HTML == "":
		m.HTML = text
	default:
		m.Attachments = append(m.Attachments, Attachment{Name: name, ContentType: media, Content: content})
	}
}

func decoded(header string) string {
	s, err := (&mime.WordDecoder{}).DecodeHeader(header)
	if err != nil {
		return header
	}
	return s
}
