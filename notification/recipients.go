package notification

// Who is meant by a trigger's `to`, `actor` and `tenant`.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// MaxRecipients is how many recipients one trigger may name.
const MaxRecipients = 100

// recipients are what `to` names, each once, in the order given.
type recipients struct {
	Singles []recipient
	Topics  []topicRef
	given   int
	invalid int
}

// recipient is one subscriber, with what the trigger says of it.
type recipient struct {
	SubscriberID string          `json:"subscriber_id"`
	FirstName    string          `json:"first_name,omitempty"`
	LastName     string          `json:"last_name,omitempty"`
	Email        string          `json:"email,omitempty"`
	EmailNull    bool            `json:"email_null,omitempty"`
	Phone        string          `json:"phone,omitempty"`
	Avatar       string          `json:"avatar,omitempty"`
	Locale       string          `json:"locale,omitempty"`
	Timezone     string          `json:"timezone,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
	Channels     json.RawMessage `json:"channels,omitempty"`
}

// topicRef is a topic that a trigger names.
type topicRef struct {
	TopicKey string   `json:"topicKey"`
	Exclude  []string `json:"exclude,omitempty"`
}

// ValidID says whether an id of a subscriber or topic can be one.
func ValidID(id string) bool {
	return strings.TrimSpace(id) != "" && len(id) <= 500 && !strings.ContainsFunc(id, unicode.IsControl)
}

// readRecipients reads `to`: an id, an object, or a list of them. What can't be
// a recipient is left out and counted.
func readRecipients(raw json.RawMessage) (recipients, error) {
	var r recipients
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return r, unprocessable("to", "to is missing: name a subscriberId, a subscriber, a topic, or a list of them")
	}
	list := []json.RawMessage{raw}
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return r, unprocessable("to", "to can't be read: name a subscriberId, a subscriber, a topic, or a list of them")
		}
	}
	if len(list) == 0 {
		return r, unprocessable("to", "to is empty: name at least one recipient")
	}
	if len(list) > MaxRecipients {
		message := fmt.Sprintf("to must contain no more than %d elements", MaxRecipients)
		return r, &RefusedError{Status: 400, Messages: []string{message}, Errors: []FieldError{{Field: "to", Message: message}}}
	}
	r.given = len(list)
	seen := map[string]int{}
	topics := map[string]bool{}
	for _, e := range list {
		topic, one, ok := readRecipient(e)
		switch {
		case !ok:
			r.invalid++
		case topic != nil:
			if !topics[topic.TopicKey] {
				topics[topic.TopicKey] = true
				r.Topics = append(r.Topics, *topic)
			}
		default:
			if i, twice := seen[one.SubscriberID]; twice {
				r.Singles[i] = r.Singles[i].merge(one)
				continue
			}
			seen[one.SubscriberID] = len(r.Singles)
			r.Singles = append(r.Singles, *one)
		}
	}
	return r, nil
}

func readRecipient(raw json.RawMessage) (*topicRef, *recipient, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, nil, false
	}
	if raw[0] == '"' {
		var id string
		if json.Unmarshal(raw, &id) != nil || !ValidID(id) {
			return nil, nil, false
		}
		return nil, &recipient{SubscriberID: id}, true
	}
	var o struct {
		Type     string   `json:"type"`
		TopicKey string   `json:"topicKey"`
		Exclude  []string `json:"exclude"`
	}
	if json.Unmarshal(raw, &o) != nil {
		return nil, nil, false
	}
	if o.TopicKey != "" || strings.EqualFold(o.Type, "topic") {
		return &topicRef{o.TopicKey, o.Exclude}, nil, ValidID(o.TopicKey)
	}
	one, ok := readSubscriber(raw)
	return nil, one, ok
}

// readSubscriber reads a subscriber in the wire's form.
func readSubscriber(raw json.RawMessage) (*recipient, bool) {
	var o map[string]json.RawMessage
	if json.Unmarshal(raw, &o) != nil {
		return nil, false
	}
	text := func(name string) string {
		var s string
		if json.Unmarshal(o[name], &s) != nil {
			return ""
		}
		return strings.ReplaceAll(s, "\x00", "")
	}
	r := &recipient{
		SubscriberID: text("subscriberId"), FirstName: text("firstName"), LastName: text("lastName"), Email: text("email"),
		Phone: text("phone"), Avatar: text("avatar"), Locale: text("locale"), Timezone: text("timezone"),
	}
	r.EmailNull = string(bytes.TrimSpace(o["email"])) == "null"
	if data := bytes.TrimSpace(o["data"]); len(data) > 0 && data[0] == '{' {
		r.Data = data
	}
	if channels := bytes.TrimSpace(o["channels"]); len(channels) > 0 && channels[0] == '[' {
		r.Channels = channels
	}
	return r, ValidID(r.SubscriberID)
}

func (r recipient) merge(with *recipient) recipient {
	for _, f := range [...]struct{ mine, other *string }{
		{&r.FirstName, &with.FirstName}, {&r.LastName, &with.LastName}, {&r.Email, &with.Email}, {&r.Phone, &with.Phone},
		{&r.Avatar, &with.Avatar}, {&r.Locale, &with.Locale}, {&r.Timezone, &with.Timezone},
	} {
		if *f.other != "" {
			*f.mine = *f.other
		}
	}
	if with.Data != nil {
		r.Data = with.Data
	}
	if with.Channels != nil {
		r.Channels = with.Channels
	}
	r.EmailNull = with.EmailNull || r.EmailNull && with.Email == ""
	return r
}

// MergeChannels puts credentials into a subscriber's: by provider and integration;
// device tokens are added to those that are there when union is set.
func MergeChannels(have, with json.RawMessage, union bool) (json.RawMessage, error) {
	var list, more []map[string]any
	if err := json.Unmarshal(have, &list); err != nil {
		return nil, fmt.Errorf("channels: %w", err)
	}
	if err := json.Unmarshal(with, &more); err != nil {
		return nil, unprocessable("channels", "channels: use a list of {providerId, credentials}")
	}
	for _, m := range more {
		i := slices.IndexFunc(list, func(c map[string]any) bool {
			return c["providerId"] == m["providerId"] && (m["integrationIdentifier"] == nil || c["integrationIdentifier"] == m["integrationIdentifier"])
		})
		if i < 0 {
			list = append(list, m)
			continue
		}
		old, _ := list[i]["credentials"].(map[string]any)
		given, _ := m["credentials"].(map[string]any)
		merged := maps.Clone(old)
		if merged == nil {
			merged = map[string]any{}
		}
		for k, v := range given {
			if k == "deviceTokens" && union {
				v = unionOf(merged[k], v)
			}
			merged[k] = v
		}
		list[i]["credentials"] = merged
	}
	if list == nil {
		list = []map[string]any{}
	}
	return json.Marshal(list)
}

func unionOf(a, b any) []any {
	x, _ := a.([]any)
	y, _ := b.([]any)
	out := slices.Clone(x)
	for _, e := range y {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}
