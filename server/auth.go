package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
)

// principal is who makes a request.
type principal struct {
	keyID int64
	// organization is nil for an operator, who sees all.
	organization *string
}

const howToGetAKey = "send a key as `Authorization: ApiKey KEY`; `pgautomate keys create --organization ORG` makes one"

// withKey lets requests with a valid key through.
func (s *Server) withKey(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := bearerKey(r)
		if !ok {
			unauthorized(howToGetAKey).write(w, r)
			return
		}
		who, err := s.keys.find(r.Context(), key)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			unauthorized("this key is not known or was revoked: "+howToGetAKey).write(w, r)
			return
		case err != nil:
			if p, ok := errors.AsType[*problem](s.toProblem(r.Context(), err)); ok {
				p.write(w, r)
			}
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey, who)))
	})
}

func unauthorized(message string) *problem {
	return &problem{status: http.StatusUnauthorized, message: message}
}

// bearerKey reads the Authorization header. Basic is not taken here: browsers
// send it by themselves, also for requests that another site makes.
func bearerKey(r *http.Request) (string, bool) {
	scheme, key, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	key = strings.TrimSpace(key)
	if !ok || key == "" || !strings.EqualFold(scheme, "ApiKey") && !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return key, true
}

// forOperators guards what shows all organizations: pages, metrics, River's UI.
// What changes something must come from a page of ours.
func (s *Server) forOperators(next http.Handler) http.Handler {
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if !s.requireKey && isLocal(r) {
			next.ServeHTTP(w, r)
			return
		}
		key, ok := bearerKey(r)
		if !ok {
			_, key, ok = r.BasicAuth()
		}
		if ok {
			who, err := s.keys.find(r.Context(), key)
			if err == nil && who.organization == nil {
				next.ServeHTTP(w, r)
				return
			}
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				s.log.Error("a key could not be looked up", "request_id", requestID(r.Context()), "error", err)
				plain(w, http.StatusServiceUnavailable, "the database does not answer: try again later")
				return
			}
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="pgautomate", charset="UTF-8"`)
		plain(w, http.StatusUnauthorized, "an operator's key is needed here (as the password of HTTP Basic, or `Authorization: ApiKey KEY`): "+
			"`pgautomate keys create --operator` makes one; or come over loopback, e.g. http://127.0.0.1:8080/")
	})
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusForbidden, "refused: this request was made by a page of another site")
	}))
	return protection.Handler(guarded)
}

// isLocal tells whether a request was made on this machine to a loopback name. A
// page elsewhere whose name was rebound to 127.0.0.1 has its own name in Host; a
// proxy on this machine says for whom it asks, or speaks HTTP/1.0 as nginx does by
// default.
func isLocal(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(host) || !r.ProtoAtLeast(1, 1) {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	name := r.Host
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(name, "."), "["), "]")
	return strings.EqualFold(name, "localhost") || isLoopback(name)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// OrgParam names the organization: for operators; a key of an organization needs
// it nowhere.
type OrgParam struct {
	OrganizationQuery  string `query:"organization_id" maxLength:"500" doc:"For an operator's key: the organization meant."`
	OrganizationHeader string `header:"X-Organization-Id" maxLength:"500" doc:"The same as organization_id, as a header."`
}

func (o *OrgParam) named() string {
	if o.OrganizationQuery != "" {
		return o.OrganizationQuery
	}
	return o.OrganizationHeader
}

func caller(ctx context.Context) *principal {
	who, _ := ctx.Value(principalKey).(*principal)
	if who == nil {
		panic("server: a route without a key")
	}
	return who
}

// scope is what a request may see: one organization, or, for operators that
// name none, all (nil).
func scope(ctx context.Context, o *OrgParam) (*string, error) {
	who, named := caller(ctx), o.named()
	switch {
	case who.organization == nil && named == "":
		return nil, nil //nolint:nilnil // nil is "all"
	case who.organization == nil:
		return &named, nil
	case named != "" && named != *who.organization:
		return nil, otherOrganization(*who.organization)
	}
	return who.organization, nil
}

// writer is the organization that something is made in: the key's own; an
// operator names it, in the body before all else.
func writer(ctx context.Context, o *OrgParam, inBody string) (string, error) {
	named := inBody
	if named == "" {
		named = o.named()
	}
	who := caller(ctx)
	switch {
	case who.organization == nil && named == "":
		return "", invalid("/organization_id", "missing_member",
			"an operator's key must say for which organization: organization_id in the body or X-Organization-Id in the header")
	case who.organization == nil:
		return named, nil
	case named != "" && named != *who.organization:
		return "", otherOrganization(*who.organization)
	}
	return *who.organization, nil
}

func otherOrganization(own string) error {
	return problemf(http.StatusForbidden, "this key is for organization %q only: leave organization_id out", own)
}

func operatorOnly(ctx context.Context) error {
	if caller(ctx).organization != nil {
		return problemf(http.StatusForbidden, "this needs an operator's key: `pgautomate keys create --operator` makes one")
	}
	return nil
}
