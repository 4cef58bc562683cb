package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/db/dbq"
)

// ErrNoKey is returned by RevokeKey for a key that is not there (or is another
// organization's, or was revoked before).
var ErrNoKey = errors.New("there is no such key, or it was revoked before: `pgautomate keys list` shows all")

const (
	keyPrefix   = "pga_"
	keyLength   = 32 // base62: 190 bits
	keyAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	// keyCached bounds how long a key revoked by another process still works here.
	keyCached = 3 * time.Second
	// keysCached bounds the cache's memory.
	keysCached = 10_000
)

// Key is an API key as it can be shown: without itself.
type Key struct {
	ID             int64
	OrganizationID *string // nil: an operator's, which sees all organizations
	Name           string
	Prefix         string // the first characters of the key, to know it by
	CreatedAt      time.Time
	LastUsedAt     *time.Time // to the minute
	RevokedAt      *time.Time
}

// CreateKey makes a key for one organization, or, with nil, an operator's key
// that sees all of them. The key is returned this once and kept nowhere.
func CreateKey(ctx context.Context, pool *pgxpool.Pool, organization *string, name string) (key string, id int64, err error) {
	key, row, err := createKey(ctx, pool, organization, name)
	return key, row.ID, err
}

func createKey(ctx context.Context, pool *pgxpool.Pool, organization *string, name string) (string, dbq.ApiInsertKeyRow, error) {
	if organization != nil && *organization == "" {
		return "", dbq.ApiInsertKeyRow{}, errors.New("a key needs an organization, or must be an operator's")
	}
	key := newKey()
	row, err := dbq.New(pool).ApiInsertKey(ctx, dbq.ApiInsertKeyParams{
		OrganizationID: organization, Name: name, Prefix: key[:len(keyPrefix)+4], Hash: hashKey(key),
	})
	if err != nil {
		return "", row, fmt.Errorf("the key could not be stored: %w", err)
	}
	return key, row, nil
}

// ListKeys lists keys by id, revoked ones too; nil lists all organizations'.
func ListKeys(ctx context.Context, pool *pgxpool.Pool, organization *string) ([]Key, error) {
	const batch = 1000
	var keys []Key
	for after := int64(0); ; {
		rows, err := dbq.New(pool).ApiListKeys(ctx, dbq.ApiListKeysParams{OrganizationID: organization, AfterID: after, MaxRows: batch})
		if err != nil {
			return nil, fmt.Errorf("the keys could not be read: %w", err)
		}
		for i := range rows {
			keys = append(keys, Key(rows[i]))
			after = rows[i].ID
		}
		if len(rows) < batch {
			return keys, nil
		}
	}
}

// RevokeKey ends a key: at once in this process, within seconds in others. With an
// organization only that one's keys are found. It returns ErrNoKey when there is none.
func RevokeKey(ctx context.Context, pool *pgxpool.Pool, organization *string, id int64) error {
	n, err := dbq.New(pool).ApiRevokeKey(ctx, dbq.ApiRevokeKeyParams{ID: id, OrganizationID: organization})
	if err != nil {
		return fmt.Errorf("the key could not be revoked: %w", err)
	}
	if n == 0 {
		return ErrNoKey
	}
	return nil
}

func newKey() string {
	key := make([]byte, 0, len(keyPrefix)+keyLength)
	key = append(key, keyPrefix...)
	var buf [64]byte
	for len(key) < cap(key) {
		_, _ = rand.Read(buf[:])
		for _, b := range buf {
			// Bytes from 248 on would make the first letters likelier.
			if b < 248 && len(key) < cap(key) {
				key = append(key, keyAlphabet[b%62])
			}
		}
	}
	return string(key)
}

func hashKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

// keyCache remembers who a key is for some seconds, so that a busy client costs
// the database nothing.
type keyCache struct {
	q *dbq.Queries

	mu    sync.Mutex
	known map[[sha256.Size]byte]cachedKey
}

type cachedKey struct {
	who   *principal
	until time.Time
}

func newKeyCache(pool *pgxpool.Pool) *keyCache {
	return &keyCache{q: dbq.New(pool), known: map[[sha256.Size]byte]cachedKey{}}
}

// find returns pgx.ErrNoRows for a key that is not valid.
func (c *keyCache) find(ctx context.Context, key string) (*principal, error) {
	hash := sha256.Sum256([]byte(key))
	c.mu.Lock()
	k, ok := c.known[hash]
	c.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return k.who, nil
	}
	asked := time.Now()
	row, err := c.q.ApiFindKey(ctx, hash[:])
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if row.Stale {
		// Only for people to read: a database that can't be written now is no reason to refuse.
		_ = c.q.ApiTouchKey(ctx, row.ID)
	}
	who := &principal{keyID: row.ID, organization: row.OrganizationID}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= keysCached {
		clear(c.known)
	}
	c.known[hash] = cachedKey{who, asked.Add(keyCached)}
	return who, nil
}

func (c *keyCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
}

// APIKey is a key on the wire.
type APIKey struct {
	ID             string     `json:"id"`
	OrganizationID *string    `json:"organization_id" doc:"null: an operator's key."`
	Name           string     `json:"name"`
	Prefix         string     `json:"prefix" doc:"How the key begins."`
	CreatedAt      time.Time  `json:"created_at"`
	LastUsedAt     *time.Time `json:"last_used_at" doc:"To the minute."`
	RevokedAt      *time.Time `json:"revoked_at"`
}

// NewAPIKey is a key on the wire at the one moment it is shown.
type NewAPIKey struct {
	ID             string    `json:"id"`
	OrganizationID *string   `json:"organization_id"`
	Name           string    `json:"name"`
	Prefix         string    `json:"prefix"`
	CreatedAt      time.Time `json:"created_at"`
	Key            string    `json:"key" doc:"Shown this once."`
}

func (s *Server) registerKeys() {
	tags := []string{"keys"}
	type listInput struct {
		OrgParam
		Paged
	}
	route(s, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: "/v1/keys", Tags: tags, Summary: "List API keys",
	}, func(ctx context.Context, in *listInput) (*List[APIKey], error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		after, err := idCursor(in.Cursor, 0)
		if err != nil {
			return nil, err
		}
		rows, err := s.q.ApiListKeys(ctx, dbq.ApiListKeysParams{OrganizationID: org, AfterID: after, MaxRows: in.Limit + 1})
		if err != nil {
			return nil, err
		}
		return page(rows, in.Limit, func(r *dbq.ApiListKeysRow) APIKey {
			return APIKey{strconv.FormatInt(r.ID, 10), r.OrganizationID, r.Name, r.Prefix, r.CreatedAt, r.LastUsedAt, r.RevokedAt}
		}, func(r *dbq.ApiListKeysRow) string { return strconv.FormatInt(r.ID, 10) }), nil
	})

	type newKeyRequest struct {
		OrgParam

		Body struct {
			Name           string `json:"name" maxLength:"200" required:"false" doc:"To know it by."`
			OrganizationID string `json:"organization_id,omitempty" maxLength:"500"`
			Operator       bool   `json:"operator,omitempty" doc:"A key that sees all organizations; only an operator's key may make one."`
		}
	}
	route(s, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: "/v1/keys", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make an API key", Description: "The key is in the answer, this once.",
	}, func(ctx context.Context, in *newKeyRequest) (*Single[NewAPIKey], error) {
		var org *string
		if in.Body.Operator {
			if err := operatorOnly(ctx); err != nil {
				return nil, err
			}
			if in.Body.OrganizationID != "" {
				return nil, invalid("/organization_id", "invalid", "an operator's key has no organization: leave it out, or leave operator out")
			}
		} else {
			name, err := writer(ctx, &in.OrgParam, in.Body.OrganizationID)
			if err != nil {
				return nil, err
			}
			org = &name
		}
		key, row, err := createKey(ctx, s.pool, org, in.Body.Name)
		if err != nil {
			return nil, err
		}
		return single(NewAPIKey{strconv.FormatInt(row.ID, 10), org, in.Body.Name, key[:len(keyPrefix)+4], row.CreatedAt, key}), nil
	})

	type deleteInput struct {
		OrgParam

		ID string `path:"id"`
	}
	route(s, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodDelete, Path: "/v1/keys/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Revoke an API key", Description: "It stops working at once here, and within five seconds in other processes.",
	}, func(ctx context.Context, in *deleteInput) (*Empty, error) {
		org, err := scope(ctx, &in.OrgParam)
		if err != nil {
			return nil, err
		}
		id, err := parseID("key", in.ID)
		if err != nil {
			return nil, err
		}
		if err := RevokeKey(ctx, s.pool, org, id); err != nil {
			if errors.Is(err, ErrNoKey) {
				return nil, notFound("key", in.ID)
			}
			return nil, err
		}
		s.keys.forget()
		return &Empty{}, nil
	})
}

// idCursor reads a cursor that is an id; none means start.
func idCursor(cursor string, start int64) (int64, error) {
	raw, err := decodeCursor(cursor)
	if err != nil || raw == "" {
		return start, err
	}
	id, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return 0, badCursor()
	}
	return id, nil
}
