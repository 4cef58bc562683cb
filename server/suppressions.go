package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// Suppression is a suppression on the wire.
type Suppression struct {
	ID             string    `json:"id"`
	OrganizationID string    `json:"organization_id"`
	LeadID         *string   `json:"lead_id"`
	LeadType       *string   `json:"lead_type" doc:"The object type that lead_id is of; null without lead_id."`
	SubscriberID   *string   `json:"subscriber_id"`
	Address        *string   `json:"address" doc:"An e-mail address in small letters, or a phone number without spaces and dashes."`
	Channel        string    `json:"channel" enum:"*,email,sms,push,chat,in_app" doc:"* is all of them."`
	Reason         string    `json:"reason"`
	CreatedAt      time.Time `json:"created_at"`
}

func showSuppression(r *dbq.PgautomateSuppression) Suppression {
	s := Suppression{
		ID: strconv.FormatInt(r.ID, 10), OrganizationID: r.OrganizationID, LeadID: r.LeadID, SubscriberID: r.SubscriberID, Address: r.Address,
		Channel: "*", Reason: r.Reason, CreatedAt: r.CreatedAt,
	}
	if r.LeadID != nil {
		s.LeadType = &r.LeadType
	}
	set(&s.Channel, r.Channel)
	return s
}

func (s *Server) registerSuppressions() {
	tags := []string{"suppressions"}
	type listInput struct {
		OrgParam
		Paged

		LeadID       string `query:"lead_id" maxLength:"1000"`
		SubscriberID string `query:"subscriber_id" maxLength:"1000"`
		Address      string `query:"address" maxLength:"1000"`
	}
	route(s, huma.Operation{
		OperationID: "list-suppressions", Method: http.MethodGet, Path: "/v1/suppressions", Tags: tags, Summary: "List whom nothing is sent to",
	}, func(ctx context.Context, in *listInput) (*List[Suppression], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		after, err := idCursor(in.Cursor, 0)
		if err != nil {
			return nil, err
		}
		rows, err := s.q.ApiListSuppressions(ctx, dbq.ApiListSuppressionsParams{
			OrganizationID: org, LeadID: optional(in.LeadID), SubscriberID: optional(in.SubscriberID), Address: optional(in.Address),
			AfterID: after, MaxRows: in.Limit + 1,
		})
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, showSuppression, func(r *dbq.PgautomateSuppression) string { return strconv.FormatInt(r.ID, 10) }), nil
	})

	type postSuppression struct {
		OrgParam

		Body struct {
			OrganizationID string `json:"organization_id,omitempty" maxLength:"500" doc:"For an operator's key."`
			LeadID         string `json:"lead_id,omitempty" maxLength:"1000" doc:"Name a lead, a subscriber or an address."`
			LeadType       string `json:"lead_type,omitempty" maxLength:"200" default:"lead" doc:"The object type that lead_id is of."`
			SubscriberID   string `json:"subscriber_id,omitempty" maxLength:"1000"`
			Address        string `json:"address,omitempty" maxLength:"1000" doc:"An e-mail address or a phone number, whoever has it."`
			Channel        string `json:"channel,omitempty" enum:"*,email,sms,push,chat,in_app" default:"*"`
			Reason         string `json:"reason,omitempty" maxLength:"1000" default:"suppressed" doc:"unsubscribed ends runs with that reason; all others with suppressed."`
		}
	}
	route(s, huma.Operation{
		OperationID: "create-suppression", Method: http.MethodPost, Path: "/v1/suppressions", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary:     "Send nothing more to a lead, a subscriber or an address",
		Description: "Holds from the next send on; a run whose send it stops ends. Who is suppressed on all channels is not let into pipelines.",
	}, func(ctx context.Context, in *postSuppression) (*Single[Suppression], error) {
		b := &in.Body
		org, err := writer(ctx, &in.OrgParam, b.OrganizationID)
		if err != nil {
			return nil, err
		}
		p := dbq.ApiInsertSuppressionParams{
			OrganizationID: org, LeadID: optional(b.LeadID), SubscriberID: optional(b.SubscriberID), Address: optional(b.Address),
			LeadType: b.LeadType, Channel: b.Channel, Reason: b.Reason,
		}
		named := 0
		for _, v := range []*string{p.LeadID, p.SubscriberID, p.Address} {
			if v != nil {
				named++
			}
		}
		if named != 1 {
			return nil, invalid("", "invalid", "name one of lead_id, subscriber_id and address")
		}
		if p.Address != nil && !isAddress(*p.Address) {
			return nil, invalid("/address", "invalid", "give an e-mail address such as ann@example.com or a phone number such as +431234567")
		}
		row, err := s.q.ApiInsertSuppression(ctx, p)
		if isPG(err, pgerrcode.UniqueViolation) {
			return nil, conflict("this is suppressed already: PATCH that one, or DELETE it")
		}
		if err != nil {
			return nil, err
		}
		return single(showSuppression(&row)), nil
	})

	type oneInput struct {
		OrgParam

		ID string `path:"id"`
	}
	route(s, huma.Operation{
		OperationID: "get-suppression", Method: http.MethodGet, Path: "/v1/suppressions/{id}", Tags: tags, Summary: "Get a suppression",
	}, func(ctx context.Context, in *oneInput) (*Single[Suppression], error) {
		org, id, err := one(ctx, &in.OrgParam, "suppression", in.ID)
		if err != nil {
			return nil, err
		}
		row, err := s.q.ApiGetSuppression(ctx, dbq.ApiGetSuppressionParams{ID: id, OrganizationID: org})
		if err != nil {
			return nil, orNotFound(err, "suppression", in.ID)
		}
		return single(showSuppression(&row)), nil
	})

	type patchInput struct {
		OrgParam

		ID   string `path:"id"`
		Body struct {
			Channel *string `json:"channel,omitempty" enum:"*,email,sms,push,chat,in_app"`
			Reason  *string `json:"reason,omitempty" maxLength:"1000"`
		}
	}
	route(s, huma.Operation{
		OperationID: "patch-suppression", Method: http.MethodPatch, Path: "/v1/suppressions/{id}", Tags: tags, Summary: "Change a suppression's channel or reason",
	}, func(ctx context.Context, in *patchInput) (*Single[Suppression], error) {
		org, id, err := one(ctx, &in.OrgParam, "suppression", in.ID)
		if err != nil {
			return nil, err
		}
		row, err := s.q.ApiUpdateSuppression(ctx, dbq.ApiUpdateSuppressionParams{ID: id, OrganizationID: org, Channel: in.Body.Channel, Reason: in.Body.Reason})
		if isPG(err, pgerrcode.UniqueViolation) {
			return nil, conflict("there is another suppression of the same for that channel: DELETE one of them")
		}
		if err != nil {
			return nil, orNotFound(err, "suppression", in.ID)
		}
		return single(showSuppression(&row)), nil
	})
	route(s, huma.Operation{
		OperationID: "delete-suppression", Method: http.MethodDelete, Path: "/v1/suppressions/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Allow sending again",
	}, func(ctx context.Context, in *oneInput) (*Empty, error) {
		org, id, err := one(ctx, &in.OrgParam, "suppression", in.ID)
		if err != nil {
			return nil, err
		}
		n, err := s.q.ApiDeleteSuppression(ctx, dbq.ApiDeleteSuppressionParams{ID: id, OrganizationID: org})
		if err == nil && n == 0 {
			err = notFound("suppression", in.ID)
		}
		if err != nil {
			return nil, err
		}
		return &Empty{}, nil
	})
}

// one reads whose thing is meant, and which.
func one(ctx context.Context, o *OrgParam, what, text string) (org *string, id int64, err error) {
	if org, err = scope(ctx, o); err != nil {
		return nil, 0, err
	}
	id, err = parseID(what, text)
	return org, id, err
}

// isAddress says whether something may be an e-mail address or a phone number.
func isAddress(s string) bool {
	if name, host, mail := strings.Cut(s, "@"); mail {
		return strings.TrimSpace(name) != "" && strings.TrimSpace(host) != "" && !strings.ContainsAny(s, "\r\n\x00,;<>")
	}
	digits := 0
	for _, r := range s {
		switch {
		case r >= '0' && r <= '9':
			digits++
		case !strings.ContainsRune(" +().-", r):
			return false
		}
	}
	return digits >= 3
}
