package notification

// Acceptance: from a trigger's request to an event, in one transaction. What names
// only single recipients is shared out in that very transaction; topics and
// broadcasts go on in the background.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/internal/failpoint"
)

// Answers of a trigger; the SDKs know no others.
const (
	Processed         = "processed"
	NotActive         = "trigger_not_active"
	NoSteps           = "no_workflow_steps_defined"
	NoActiveSteps     = "no_workflow_active_steps_defined"
	NoTenant          = "no_tenant_found"
	InvalidRecipients = "invalid_recipients"
	Errored           = "error"
)

// Bounds of a trigger, in bytes.
const (
	MaxPayload     = 512 << 10
	MaxAttachments = 20 << 20
)

// Request is a trigger in the wire's form.
type Request struct {
	Name          string          `json:"name"`
	To            json.RawMessage `json:"to"`
	Payload       json.RawMessage `json:"payload"`
	Overrides     json.RawMessage `json:"overrides"`
	TransactionID string          `json:"transactionId"`
	Actor         json.RawMessage `json:"actor"`
	Tenant        json.RawMessage `json:"tenant"`

	// Broadcast is for all subscribers; To doesn't count.
	Broadcast bool `json:"-"`
	// Cause is what automation it comes from.
	Cause json.RawMessage `json:"-"`
}

// Answer is what a caller is told.
type Answer struct {
	Acknowledged  bool     `json:"acknowledged"`
	Status        string   `json:"status"`
	TransactionID string   `json:"transactionId,omitempty"`
	Error         []string `json:"error,omitempty"`
}

// Trigger accepts a trigger. *RefusedError says that it can't be.
func (s *Service) Trigger(ctx context.Context, organization string, r Request) (Answer, error) {
	p, err := s.prepare(ctx, dbq.New(s.Pool), organization, &r)
	if err != nil || p.answer.Status != Processed || p.twice {
		return p.answer, err
	}
	if err := s.keepAttachments(ctx, organization, p); err != nil {
		return Answer{}, err
	}
	if p.plain() {
		err = acceptPlain(ctx, dbq.New(s.Pool), organization, p)
	} else {
		err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error { return s.accept(ctx, tx, organization, p) })
	}
	if err != nil || p.twice {
		s.dropAttachments(ctx, p.attachments)
	}
	if err != nil {
		return Answer{}, err
	}
	failpoint.Hit("trigger-accepted")
	s.changed()
	return p.answer, nil
}

// TriggerTx is Trigger in a transaction of the caller's.
func (s *Service) TriggerTx(ctx context.Context, tx pgx.Tx, organization string, r Request) (Answer, error) {
	p, err := s.prepare(ctx, dbq.New(tx), organization, &r)
	if err != nil || p.answer.Status != Processed || p.twice {
		return p.answer, err
	}
	if err := s.keepAttachments(ctx, organization, p); err != nil {
		return Answer{}, err
	}
	if err := s.accept(ctx, tx, organization, p); err != nil {
		return Answer{}, err
	}
	return p.answer, nil
}

// prepared is a trigger that was looked through.
type prepared struct {
	workflow    int64
	steps       []int64
	to          recipients
	broadcast   bool
	payload     json.RawMessage
	overrides   json.RawMessage
	actor       *recipient
	tenant      *int64
	newTenant   *tenantRef
	attachments []attachment
	cause       json.RawMessage
	twice       bool // it was accepted before
	answer      Answer
}

type tenantRef struct {
	Identifier string          `json:"identifier"`
	Name       *string         `json:"name"`
	Data       json.RawMessage `json:"data"`
}

// prepare checks a request in Novu's order: body, workflow, tenant, is it active,
// has it steps, has the payload what they need.
func (s *Service) prepare(ctx context.Context, q *dbq.Queries, organization string, r *Request) (*prepared, error) {
	p := &prepared{broadcast: r.Broadcast, cause: r.Cause, answer: Answer{Acknowledged: true, Status: Processed}}
	if strings.TrimSpace(r.Name) == "" {
		return p, unprocessable("name", "name is missing: name the workflow's identifier")
	}
	var err error
	if !r.Broadcast {
		if p.to, err = readRecipients(r.To); err != nil {
			return p, err
		}
	}
	if err := p.readBody(r); err != nil {
		return p, err
	}
	if r.TransactionID != "" {
		// Whatever has become of the workflow since: the answer is the first one.
		p.twice, err = q.EventExists(ctx, dbq.EventExistsParams{OrganizationID: organization, TransactionID: r.TransactionID})
		if err != nil {
			return p, fmt.Errorf("event %q: %w", r.TransactionID, err)
		}
		if p.twice {
			p.answer.TransactionID = r.TransactionID
			return p, nil
		}
	}
	steps, err := q.FindWorkflow(ctx, dbq.FindWorkflowParams{OrganizationID: organization, Identifier: r.Name})
	if err != nil {
		return p, fmt.Errorf("workflow %q: %w", r.Name, err)
	}
	if len(steps) == 0 {
		return p, &RefusedError{Status: 422, Message: "workflow_not_found", Fields: map[string][]string{"name": {"workflow_not_found"}}}
	}
	w := steps[0]
	if w.Step == 0 {
		steps = nil
	}
	p.workflow = w.ID
	active := w.Active
	if err := p.readActor(r.Actor); err != nil {
		return p, err
	}
	override, found, err := p.readTenant(ctx, q, organization, r.Tenant)
	switch {
	case err != nil:
		return p, err
	case !found:
		return p.with(NoTenant), nil
	case override != nil:
		active = *override
	}
	if missing := reserved(steps, p); missing != "" {
		return p, &RefusedError{Status: 400, Message: "Trigger is missing: " + missing}
	}
	live := steps[:0:0]
	for _, step := range steps {
		if step.StepActive {
			live = append(live, step)
			p.steps = append(p.steps, step.Step)
		}
	}
	switch {
	case !active:
		return p.with(NotActive), nil
	case len(steps) == 0:
		return p.with(NoSteps), nil
	case len(live) == 0:
		return p.with(NoActiveSteps), nil
	case !r.Broadcast && len(p.to.Singles)+len(p.to.Topics) == 0:
		return p.with(InvalidRecipients), nil
	}
	if err := p.checkPayload(live, w.PayloadSchema, w.ValidatePayload); err != nil {
		return p, err
	}
	if p.answer.TransactionID = r.TransactionID; p.answer.TransactionID == "" {
		p.answer.TransactionID = newID()
	}
	return p, nil
}

func (p *prepared) with(status string) *prepared {
	p.answer = Answer{Acknowledged: true, Status: status}
	return p
}

// newID is a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// readBody reads payload and overrides; attachments leave the payload.
func (p *prepared) readBody(r *Request) error {
	if len(r.TransactionID) > 500 || strings.ContainsRune(r.TransactionID, 0) {
		return unprocessable("transactionId", "transactionId can't be one: use at most 500 bytes, without U+0000")
	}
	p.payload, p.overrides = json.RawMessage("{}"), json.RawMessage("{}")
	for name, from := range map[string]*json.RawMessage{"payload": &r.Payload, "overrides": &r.Overrides} {
		raw := bytes.TrimSpace(*from)
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		if raw[0] != '{' {
			return unprocessable(name, name+" must be an object")
		}
		if name == "payload" {
			p.payload = raw
		} else {
			p.overrides = raw
		}
	}
	if err := p.takeAttachments(); err != nil {
		return err
	}
	if len(p.payload) > MaxPayload {
		return &RefusedError{Status: 413, Message: fmt.Sprintf("the payload is larger than %d KiB: send less, or a link", MaxPayload>>10)}
	}
	return nil
}

func (p *prepared) readActor(raw json.RawMessage) error {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	_, one, ok := readRecipient(raw)
	if !ok || one == nil {
		return unprocessable("actor", "actor: name a subscriberId or a subscriber")
	}
	p.actor = one
	return nil
}

// readTenant finds the tenant; override is what it says of the workflow being active.
func (p *prepared) readTenant(ctx context.Context, q *dbq.Queries, organization string, raw json.RawMessage) (override *bool, found bool, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, true, nil
	}
	var t tenantRef
	if raw[0] == '"' {
		err = json.Unmarshal(raw, &t.Identifier)
	} else {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil || !ValidID(t.Identifier) {
		return nil, false, unprocessable("tenant", "tenant: name an identifier, or {identifier, name, data}")
	}
	row, err := q.FindTenant(ctx, dbq.FindTenantParams{OrganizationID: organization, Identifier: t.Identifier, WorkflowID: p.workflow})
	if errors.Is(err, pgx.ErrNoRows) {
		if t.Name == nil && len(t.Data) == 0 {
			return nil, false, nil
		}
		p.newTenant = &t
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("tenant %q: %w", t.Identifier, err)
	}
	p.tenant = &row.ID
	if t.Name != nil || len(t.Data) > 0 {
		p.newTenant = &t
	}
	return row.Active, true, nil
}

// plain says that a trigger is for single recipients, of whom nothing is said but what one statement can write. One with
// attachments is not: they are dropped when the request is given up, and then it must be certain that nothing is committed.
func (p *prepared) plain() bool {
	return !p.broadcast && len(p.to.Topics) == 0 && p.newTenant == nil && p.actor == nil && len(p.attachments) == 0 &&
		!slices.ContainsFunc(p.to.Singles, func(r recipient) bool { return r.EmailNull || len(r.Channels) > 0 })
}

// acceptPlain is accept for a plain one: one statement, which needs no transaction around it.
func acceptPlain(ctx context.Context, q *dbq.Queries, organization string, p *prepared) error {
	event := dbq.AcceptEventParams{
		OrganizationID: organization, WorkflowID: p.workflow, TransactionID: p.answer.TransactionID, StepIds: p.steps,
		Payload: p.payload, Overrides: p.overrides, TenantID: p.tenant, Cause: p.cause,
	}
	var err error
	if event.Recipients, err = json.Marshal(p.to.Singles); err != nil {
		return err
	}
	id, err := q.AcceptEvent(ctx, event)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	p.twice = id == 0 // the same answer, no new work
	return nil
}

// accept writes the event; a second one of the same transactionId is none.
func (s *Service) accept(ctx context.Context, tx pgx.Tx, organization string, p *prepared) error {
	q := dbq.New(tx)
	if p.plain() {
		return acceptPlain(ctx, q, organization, p)
	}
	if p.newTenant != nil {
		id, err := q.UpsertTenant(ctx, dbq.UpsertTenantParams{
			OrganizationID: organization, Identifier: p.newTenant.Identifier, Name: p.newTenant.Name, Data: p.newTenant.Data,
		})
		if err != nil {
			return fmt.Errorf("tenant %q: %w", p.newTenant.Identifier, err)
		}
		p.tenant = &id
	}
	event := dbq.InsertEventParams{
		OrganizationID: organization, WorkflowID: p.workflow, TransactionID: p.answer.TransactionID, StepIds: p.steps,
		Broadcast: p.broadcast, Payload: p.payload, Overrides: p.overrides, TenantID: p.tenant, Cause: p.cause,
	}
	// Single recipients get theirs in this transaction: nothing is left to be shared out.
	singles := p.to.Singles
	if event.Done = !p.broadcast && len(p.to.Topics) == 0; event.Done {
		event.FannedOut, singles = int64(len(singles)), nil
	}
	var err error
	if event.Recipients, err = json.Marshal(orEmpty(singles)); err != nil {
		return err
	}
	if event.Topics, err = json.Marshal(orEmpty(p.to.Topics)); err != nil {
		return err
	}
	if event.Attachments, err = json.Marshal(orEmpty(p.attachments)); err != nil {
		return err
	}
	if p.actor != nil {
		event.Actor = &p.actor.SubscriberID
	}
	id, err := q.InsertEvent(ctx, event)
	if errors.Is(err, pgx.ErrNoRows) {
		p.twice = true // the same answer, no new work
		return nil
	}
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if p.actor != nil {
		if _, err := s.upsert(ctx, q, organization, []recipient{*p.actor}); err != nil {
			return err
		}
	}
	if event.Done {
		_, err := s.shareSingles(ctx, q, &dbq.LockEventRow{ID: id, OrganizationID: organization}, p.to.Singles)
		return err
	}
	failpoint.Hit("trigger-before-queue")
	_, err = s.River.InsertManyFastTx(ctx, tx, []river.InsertManyParams{{
		Args: EventArgs{ID: id}, InsertOpts: &river.InsertOpts{Queue: Queue, MaxAttempts: 25},
	}})
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// attachment is where one is kept.
type attachment struct {
	Key         string   `json:"key"`
	Name        string   `json:"name"`
	Mime        string   `json:"mime,omitempty"`
	Channels    []string `json:"channels,omitempty"`
	CID         string   `json:"cid,omitempty"`
	Disposition string   `json:"disposition,omitempty"`

	content []byte
}

// takeAttachments takes payload.attachments out of the payload.
func (p *prepared) takeAttachments() error {
	if !bytes.Contains(p.payload, []byte(`"attachments"`)) {
		return nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(p.payload, &m); err != nil {
		return unprocessable("payload", "payload must be an object")
	}
	raw, there := m["attachments"]
	if !there || string(bytes.TrimSpace(raw)) == "null" {
		return nil
	}
	var list []struct {
		attachment

		File json.RawMessage `json:"file"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return unprocessable("payload", "payload.attachments: use [{name, file (base64), mime}]")
	}
	size := 0
	for i, a := range list {
		content, ok := fileBytes(a.File)
		if !ok {
			return unprocessable("payload", fmt.Sprintf("payload.attachments[%d].file: use base64", i))
		}
		if size += len(content); size > MaxAttachments {
			return &RefusedError{Status: 413, Message: fmt.Sprintf("the attachments are larger than %d MiB: send a link instead", MaxAttachments>>20)}
		}
		if a.Name == "" {
			a.Name = fmt.Sprintf("attachment-%d", i+1)
		}
		if strings.ContainsAny(a.Name, "/\\\r\n\x00") {
			return unprocessable("payload", fmt.Sprintf("payload.attachments[%d].name: use a file name without a path", i))
		}
		a.content = content
		p.attachments = append(p.attachments, a.attachment)
	}
	kept := make([]map[string]any, len(p.attachments))
	for i, a := range p.attachments {
		kept[i] = map[string]any{"name": a.Name}
		if a.Mime != "" {
			kept[i]["mime"] = a.Mime
		}
	}
	var err error
	if m["attachments"], err = json.Marshal(kept); err != nil {
		return err
	}
	p.payload, err = json.Marshal(m)
	return err
}

// fileBytes reads base64, or the JSON of a Node Buffer.
func fileBytes(raw json.RawMessage) ([]byte, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if _, data, found := strings.Cut(text, ";base64,"); found && strings.HasPrefix(text, "data:") {
			text = data
		}
		content, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		return content, err == nil
	}
	var buffer struct {
		Type string `json:"type"`
		Data []int  `json:"data"`
	}
	if json.Unmarshal(raw, &buffer) != nil || buffer.Type != "Buffer" {
		return nil, false
	}
	content := make([]byte, len(buffer.Data))
	for i, b := range buffer.Data {
		if b < 0 || b > 255 {
			return nil, false
		}
		content[i] = byte(b)
	}
	return content, true
}

func (s *Service) keepAttachments(ctx context.Context, organization string, p *prepared) error {
	if len(p.attachments) > 0 && s.Attachments == nil {
		return &RefusedError{Status: 422, Message: "attachments can't be kept here: set ATTACHMENTS_URL"}
	}
	for i := range p.attachments {
		a := &p.attachments[i]
		a.Key = fmt.Sprintf("%s/%s/%s", hex.EncodeToString([]byte(organization)), newID(), a.Name)
		if err := s.Attachments.Put(ctx, a.Key, a.content); err != nil {
			s.dropAttachments(ctx, p.attachments[:i])
			return fmt.Errorf("attachment %q can't be kept: %w", a.Name, err)
		}
	}
	return nil
}

func (s *Service) dropAttachments(ctx context.Context, list []attachment) {
	for _, a := range list {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		if err := s.Attachments.Delete(ctx, a.Key); err != nil {
			s.Logger.WarnContext(ctx, "an attachment stays where it is kept", "key", a.Key, "error", err)
		}
		cancel()
	}
}
