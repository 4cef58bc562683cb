package server

// Topics: groups of subscribers that a trigger can name.

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

func (s *Server) registerTopics(mux *http.ServeMux) {
	const tag = "topics"
	paged := []string{"limit", "after", "before", "includeCursor", "orderDirection", "key", "name"}
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v2/topics", id: "create-topic", summary: "Make or change a topic", tag: tag, query: []string{"failIfExists"}, handle: createTopic},
		wire{method: http.MethodGet, path: "/v2/topics", id: "list-topics", summary: "List topics", tag: tag, query: paged, handle: listTopics},
		wire{method: http.MethodGet, path: "/v2/topics/{topicKey}", id: "get-topic", summary: "Get a topic", tag: tag, handle: getTopic},
		wire{method: http.MethodPatch, path: "/v2/topics/{topicKey}", id: "patch-topic", summary: "Change a topic", tag: tag, handle: patchTopic},
		wire{method: http.MethodDelete, path: "/v2/topics/{topicKey}", id: "delete-topic", summary: "Delete a topic", tag: tag, handle: deleteTopic},
		wire{method: http.MethodPost, path: "/v2/topics/{topicKey}/subscriptions", id: "subscribe", summary: "Add members", tag: tag, most: 8 << 20, handle: subscribe},
		wire{method: http.MethodDelete, path: "/v2/topics/{topicKey}/subscriptions", id: "unsubscribe", summary: "Remove members", tag: tag, most: 8 << 20, handle: unsubscribe},
		wire{method: http.MethodGet, path: "/v2/topics/{topicKey}/subscriptions", id: "list-subscriptions", summary: "List members", tag: tag, query: paged, handle: listSubscriptions},
		wire{method: http.MethodGet, path: "/v2/topics/{topicKey}/subscriptions/{identifier}", id: "get-subscription", summary: "Get one membership", tag: tag, handle: getSubscription},
		wire{method: http.MethodPatch, path: "/v2/topics/{topicKey}/subscriptions/{identifier}", id: "patch-subscription", summary: "Get one membership; there is nothing in it to change", tag: tag, handle: getSubscription},
		wire{method: http.MethodGet, path: "/v2/subscribers/{subscriberId}/subscriptions", id: "list-subscriber-topics", summary: "List a subscriber's topics", tag: tag, query: paged, handle: listSubscriptions},
		wire{method: http.MethodPost, path: "/v1/topics", id: "v1-create-topic", summary: "Make a topic (v1)", tag: tag, handle: createTopicV1},
		wire{method: http.MethodGet, path: "/v1/topics", id: "v1-list-topics", summary: "List topics (v1)", tag: tag, query: []string{"page", "pageSize", "key"}, handle: listTopicsV1},
		wire{method: http.MethodGet, path: "/v1/topics/{topicKey}", id: "v1-get-topic", summary: "Get a topic (v1)", tag: tag, handle: getTopic},
		wire{method: http.MethodPatch, path: "/v1/topics/{topicKey}", id: "v1-patch-topic", summary: "Change a topic (v1)", tag: tag, handle: patchTopic},
		wire{method: http.MethodDelete, path: "/v1/topics/{topicKey}", id: "v1-delete-topic", summary: "Delete an empty topic (v1)", tag: tag, handle: deleteTopicV1},
		wire{method: http.MethodPost, path: "/v1/topics/{topicKey}/subscribers", id: "v1-subscribe", summary: "Add members (v1)", tag: tag, most: 8 << 20, handle: subscribeV1},
		wire{method: http.MethodPost, path: "/v1/topics/{topicKey}/subscribers/removal", id: "v1-unsubscribe", summary: "Remove members (v1)", tag: tag, most: 8 << 20, handle: unsubscribeV1},
		wire{method: http.MethodGet, path: "/v1/topics/{topicKey}/subscribers/{subscriberId}", id: "v1-get-member", summary: "Is this a member? (v1)", tag: tag, handle: getMember},
	)
}

func showTopic(t *dbq.PgautomateTopic) obj {
	m := obj{
		"_id": itoa(t.ID), "key": t.Key, "name": t.Name, "_organizationId": t.OrganizationID, "_environmentId": t.OrganizationID,
		"createdAt": wireTime(t.CreatedAt), "updatedAt": wireTime(t.UpdatedAt),
	}
	put(m, "data", t.Data)
	return m
}

func (c *call) topic(key string) (*dbq.PgautomateTopic, error) {
	t, err := c.s.q.ApiGetTopic(c.ctx, dbq.ApiGetTopicParams{OrganizationID: c.org, Key: key})
	if none(err) {
		return nil, problemf(http.StatusNotFound, "Topic not found for id %s in the environment %s", clip(key), c.org)
	}
	return &t, err
}

type topicBody struct {
	Key  string          `json:"key"`
	Name *string         `json:"name"`
	Data json.RawMessage `json:"data"`
}

// makeTopic says whether it is new.
func (c *call) makeTopic(b *topicBody) (made bool, err error) {
	if !notification.ValidID(b.Key) {
		return false, refuse("key should not be empty")
	}
	if err := checkKind("data", b.Data, '{'); err != nil {
		return false, err
	}
	name := ""
	if b.Name != nil {
		name = *b.Name
	}
	_, err = c.s.q.ApiInsertTopic(c.ctx, dbq.ApiInsertTopicParams{OrganizationID: c.org, Key: b.Key, Name: name, Data: b.Data})
	if none(err) {
		return false, nil
	}
	return err == nil, err
}

func createTopic(c *call) (int, any, error) {
	var b topicBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	made, err := c.makeTopic(&b)
	if err != nil {
		return 0, nil, err
	}
	status := http.StatusCreated
	if !made {
		status = http.StatusOK
		if c.query("failIfExists") == "true" {
			status = http.StatusConflict
		} else if _, err := c.s.q.ApiPatchTopic(c.ctx, dbq.ApiPatchTopicParams{OrganizationID: c.org, Key: b.Key, Name: b.Name, Data: b.Data}); err != nil {
			return 0, nil, err
		}
	}
	t, err := c.topic(b.Key)
	if err != nil {
		return 0, nil, err
	}
	return status, showTopic(t), nil
}

func createTopicV1(c *call) (int, any, error) {
	var b topicBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	made, err := c.makeTopic(&b)
	if err == nil && !made {
		err = conflict("Topic exists with key %s in the environment %s", clip(b.Key), c.org)
	}
	if err != nil {
		return 0, nil, err
	}
	t, err := c.topic(b.Key)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, obj{"_id": itoa(t.ID), "key": t.Key}, nil
}

func getTopic(c *call) (int, any, error) {
	t, err := c.topic(c.PathValue("topicKey"))
	if err != nil {
		return 0, nil, err
	}
	m := showTopic(t)
	if strings.HasPrefix(c.URL.Path, "/v1/") {
		members, err := c.members(t.Key, "", walk{limit: 1000})
		if err != nil {
			return 0, nil, err
		}
		ids := []string{}
		for _, e := range members {
			ids = append(ids, e.SubscriberID)
		}
		m["subscribers"] = ids
	}
	return http.StatusOK, m, nil
}

func patchTopic(c *call) (int, any, error) {
	var b topicBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := checkKind("data", b.Data, '{'); err != nil {
		return 0, nil, err
	}
	key := c.PathValue("topicKey")
	if _, err := c.s.q.ApiPatchTopic(c.ctx, dbq.ApiPatchTopicParams{OrganizationID: c.org, Key: key, Name: b.Name, Data: b.Data}); err != nil {
		return 0, nil, err
	}
	t, err := c.topic(key)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, showTopic(t), nil
}

func deleteTopic(c *call) (int, any, error) {
	key := c.PathValue("topicKey")
	n, err := c.s.q.ApiDeleteTopic(c.ctx, dbq.ApiDeleteTopicParams{OrganizationID: c.org, Key: key})
	if err == nil && n == 0 {
		_, err = c.topic(key)
	}
	return http.StatusOK, obj{"acknowledged": true}, err
}

func deleteTopicV1(c *call) (int, any, error) {
	t, err := c.topic(c.PathValue("topicKey"))
	if err != nil {
		return 0, nil, err
	}
	n, err := c.s.q.ApiTopicSize(c.ctx, t.ID)
	if err == nil && n > 0 {
		err = conflict("Topic with key %s in the environment %s can't be deleted as it still has subscribers assigned", t.Key, c.org)
	}
	if err != nil {
		return 0, nil, err
	}
	_, err = c.s.q.ApiDeleteTopic(c.ctx, dbq.ApiDeleteTopicParams{OrganizationID: c.org, Key: t.Key})
	return http.StatusNoContent, nil, err
}

func (c *call) listTopics(w walk, skip int32) ([]dbq.PgautomateTopic, error) {
	return c.s.q.ApiListTopics(c.ctx, dbq.ApiListTopicsParams{
		OrganizationID: c.org, Key: c.query("key"), Name: c.query("name"), After: w.above, Before: w.below, Ascending: w.ascending, MaxRows: w.rows(), Skip: skip,
	})
}

func (c *call) countTopics(most int64) (int64, error) {
	return c.s.q.ApiCountTopics(c.ctx, dbq.ApiCountTopicsParams{OrganizationID: c.org, Key: c.query("key"), Name: c.query("name"), Most: most})
}

func listTopics(c *call) (int, any, error) {
	w, err := c.walk(c.query("orderDirection") == "ASC")
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.listTopics(w, 0)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.countTopics(maxCounted + 1)
	return http.StatusOK, cursorPage(rows, &w, found, func(r *dbq.PgautomateTopic) int64 { return r.ID }, showTopic), err
}

func listTopicsV1(c *call) (int, any, error) {
	page, err := c.number("page", 0, 1_000_000)
	if err != nil {
		return 0, nil, err
	}
	size, err := c.number("pageSize", 10, 10)
	if err != nil {
		return 0, nil, err
	}
	if size == 0 {
		size = 10
	}
	rows, err := c.listTopics(walk{limit: size}, page*size)
	if err != nil {
		return 0, nil, err
	}
	total, err := c.countTopics(math.MaxInt64)
	if err != nil {
		return 0, nil, err
	}
	data := []obj{}
	for i := range rows[:min(len(rows), int(size))] {
		one := showTopic(&rows[i])
		one["subscribers"] = []string{}
		data = append(data, one)
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "totalCount": total, "data": data}, nil
}

// memberRefs reads subscriberIds and subscriptions.
type memberRefs struct {
	SubscriberIDs []string          `json:"subscriberIds"`
	Subscriptions []json.RawMessage `json:"subscriptions"`
	Name          string            `json:"name"`
}

func (b *memberRefs) read() (ids, identifiers []string, err error) {
	add := func(id, identifier string) {
		if id != "" && !slices.Contains(ids, id) {
			ids, identifiers = append(ids, id), append(identifiers, identifier)
		}
	}
	for _, id := range b.SubscriberIDs {
		add(id, "")
	}
	for _, raw := range b.Subscriptions {
		var id string
		if json.Unmarshal(raw, &id) == nil {
			add(id, "")
			continue
		}
		var o struct {
			Identifier   string `json:"identifier"`
			SubscriberID string `json:"subscriberId"`
		}
		if json.Unmarshal(raw, &o) != nil {
			return nil, nil, refuse("subscriptions must be a list of subscriberIds or {identifier, subscriberId}")
		}
		add(o.SubscriberID, o.Identifier)
	}
	if len(ids) == 0 {
		return nil, nil, refuse("subscriberIds should not be empty")
	}
	return ids, identifiers, nil
}

func (c *call) members(topic, subscriber string, w walk) ([]dbq.ApiMembersRow, error) {
	return c.s.q.ApiMembers(c.ctx, dbq.ApiMembersParams{
		OrganizationID: c.org, TopicKey: topic, SubscriberID: subscriber, After: w.above, Before: w.below, Ascending: w.ascending, MaxRows: w.rows(),
	})
}

func showMember(r *dbq.ApiMembersRow) obj {
	who := obj{
		"_id": itoa(r.SubscriberNo), "subscriberId": r.SubscriberID, "createdAt": wireTime(r.SubscriberCreatedAt), "updatedAt": wireTime(r.SubscriberUpdatedAt),
	}
	put(who, "firstName", r.FirstName)
	put(who, "lastName", r.LastName)
	put(who, "email", r.Email)
	put(who, "avatar", r.Avatar)
	m := obj{
		"_id": itoa(r.ID), "topic": obj{"_id": itoa(r.TopicID), "key": r.Key, "name": r.Name}, "subscriber": who,
		"createdAt": wireTime(r.CreatedAt), "updatedAt": wireTime(r.CreatedAt),
	}
	m["identifier"] = r.SubscriberID
	put(m, "identifier", r.Identifier)
	return m
}

func getSubscription(c *call) (int, any, error) {
	m, err := c.s.q.ApiMember(c.ctx, dbq.ApiMemberParams{OrganizationID: c.org, TopicKey: c.PathValue("topicKey"), Identifier: c.PathValue("identifier")})
	if err != nil {
		return 0, nil, orNotFound(err, "subscription", c.PathValue("identifier"))
	}
	one := showMember(&dbq.ApiMembersRow{
		ID: m.ID, Identifier: m.Identifier, CreatedAt: m.CreatedAt, SubscriberNo: m.SubscriberNo, SubscriberID: m.SubscriberID, FirstName: m.FirstName,
		LastName: m.LastName, Email: m.Email, Avatar: m.Avatar, SubscriberCreatedAt: m.SubscriberCreatedAt, SubscriberUpdatedAt: m.SubscriberUpdatedAt,
		TopicID: m.TopicID, Key: m.Key, Name: m.Name,
	})
	one["id"] = itoa(m.ID)
	return http.StatusOK, one, nil
}

func subscribe(c *call) (int, any, error) {
	var b memberRefs
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	ids, identifiers, err := b.read()
	if err != nil {
		return 0, nil, err
	}
	t, err := c.topicOrNew(c.PathValue("topicKey"), b.Name)
	if err != nil {
		return 0, nil, err
	}
	added, err := c.s.q.ApiAddMembers(c.ctx, dbq.ApiAddMembersParams{TopicID: t.ID, OrganizationID: c.org, Ids: ids, Identifiers: identifiers})
	if err != nil {
		return 0, nil, err
	}
	rows := make([]memberRow, len(added))
	for i, m := range added {
		rows[i] = memberRow(m)
	}
	return c.membersAnswer(http.StatusCreated, t, ids, rows)
}

// memberRow is one membership, added or removed.
type memberRow struct {
	ID           int64
	SubscriberNo int64
	Identifier   *string
	CreatedAt    time.Time
}

// membersAnswer tells who was added or removed, and who is no subscriber.
func (c *call) membersAnswer(status int, t *dbq.PgautomateTopic, ids []string, rows []memberRow) (int, any, error) {
	numbers, err := c.s.q.SubscriberNumbers(c.ctx, dbq.SubscriberNumbersParams{OrganizationID: c.org, Ids: ids})
	if err != nil {
		return 0, nil, err
	}
	byNo, known := map[int64]string{}, map[string]bool{}
	for _, n := range numbers {
		byNo[n.ID], known[n.SubscriberID] = n.SubscriberID, true
	}
	data, failed := []obj{}, []obj{}
	for _, m := range rows {
		who := byNo[m.SubscriberNo]
		one := obj{
			"_id": itoa(m.ID), "topic": obj{"_id": itoa(t.ID), "key": t.Key, "name": t.Name},
			"subscriber": obj{"_id": itoa(m.SubscriberNo), "subscriberId": who, "createdAt": wireTime(m.CreatedAt), "updatedAt": wireTime(m.CreatedAt)},
			"identifier": who, "createdAt": wireTime(m.CreatedAt), "updatedAt": wireTime(m.CreatedAt),
		}
		put(one, "identifier", m.Identifier)
		data = append(data, one)
	}
	for _, id := range ids {
		if !known[id] {
			failed = append(failed, obj{"subscriberId": id, "code": "SUBSCRIBER_NOT_FOUND", "message": "Subscriber with ID '" + clip(id) + "' could not be found."})
		}
	}
	out := obj{"data": data, "meta": obj{"totalCount": len(ids), "successful": len(data), "failed": len(failed)}}
	if len(failed) > 0 {
		out["errors"] = failed
	}
	return status, out, nil
}

func (c *call) topicOrNew(key, name string) (*dbq.PgautomateTopic, error) {
	if name == "" {
		name = "Autogenerated-" + key
	}
	if _, err := c.makeTopic(&topicBody{Key: key, Name: &name}); err != nil {
		return nil, err
	}
	return c.topic(key)
}

func unsubscribe(c *call) (int, any, error) {
	var b memberRefs
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	ids, _, err := b.read()
	if err != nil {
		return 0, nil, err
	}
	t, err := c.topic(c.PathValue("topicKey"))
	if err != nil {
		return 0, nil, err
	}
	gone, err := c.s.q.ApiRemoveMembers(c.ctx, dbq.ApiRemoveMembersParams{TopicID: t.ID, Ids: ids})
	if err != nil {
		return 0, nil, err
	}
	rows := make([]memberRow, len(gone))
	for i, m := range gone {
		rows[i] = memberRow(m)
	}
	return c.membersAnswer(http.StatusOK, t, ids, rows)
}

func listSubscriptions(c *call) (int, any, error) {
	w, err := c.walk(c.query("orderDirection") == "ASC")
	if err != nil {
		return 0, nil, err
	}
	key, who := c.PathValue("topicKey"), c.PathValue("subscriberId")
	if key != "" {
		_, err = c.topic(key)
	} else {
		key = c.query("key")
		_, err = c.subscriber(who)
	}
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.members(key, who, w)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.s.q.ApiCountMembers(c.ctx, dbq.ApiCountMembersParams{OrganizationID: c.org, TopicKey: key, SubscriberID: who, Most: maxCounted + 1})
	return http.StatusOK, cursorPage(rows, &w, found, func(r *dbq.ApiMembersRow) int64 { return r.ID }, showMember), err
}

func (c *call) subscribersBody() ([]string, error) {
	var b struct {
		Subscribers []string `json:"subscribers"`
	}
	if err := c.read(&b); err != nil {
		return nil, err
	}
	if b.Subscribers == nil {
		return nil, refuse("subscribers must be an array")
	}
	return b.Subscribers, nil
}

func subscribeV1(c *call) (int, any, error) {
	ids, err := c.subscribersBody()
	if err != nil {
		return 0, nil, err
	}
	t, err := c.topicOrNew(c.PathValue("topicKey"), "")
	if err != nil {
		return 0, nil, err
	}
	numbers, err := c.s.q.SubscriberNumbers(c.ctx, dbq.SubscriberNumbersParams{OrganizationID: c.org, Ids: ids})
	if err != nil {
		return 0, nil, err
	}
	known := map[string]bool{}
	for _, n := range numbers {
		known[n.SubscriberID] = true
	}
	if _, err := c.s.q.ApiAddMembers(c.ctx, dbq.ApiAddMembersParams{TopicID: t.ID, OrganizationID: c.org, Ids: ids, Identifiers: make([]string, len(ids))}); err != nil {
		return 0, nil, err
	}
	succeeded, missing := []string{}, []string{}
	for _, id := range ids {
		if known[id] {
			succeeded = append(succeeded, id)
		} else {
			missing = append(missing, id)
		}
	}
	out := obj{"succeeded": succeeded}
	if len(missing) > 0 {
		out["failed"] = obj{"notFound": missing}
	}
	return http.StatusOK, out, nil
}

func unsubscribeV1(c *call) (int, any, error) {
	ids, err := c.subscribersBody()
	if err != nil {
		return 0, nil, err
	}
	t, err := c.topic(c.PathValue("topicKey"))
	if err != nil {
		return 0, nil, err
	}
	_, err = c.s.q.ApiRemoveMembers(c.ctx, dbq.ApiRemoveMembersParams{TopicID: t.ID, Ids: ids})
	return http.StatusNoContent, nil, err
}

func getMember(c *call) (int, any, error) {
	key, who := c.PathValue("topicKey"), c.PathValue("subscriberId")
	rows, err := c.members(key, who, walk{limit: 1})
	if err != nil {
		return 0, nil, err
	}
	if len(rows) == 0 {
		return 0, nil, problemf(http.StatusNotFound, "Subscriber %s not found for topic %s in the environment %s", clip(who), clip(key), c.org)
	}
	return http.StatusOK, obj{
		"_organizationId": c.org, "_environmentId": c.org, "_subscriberId": itoa(rows[0].SubscriberNo), "_topicId": itoa(rows[0].TopicID),
		"topicKey": key, "externalSubscriberId": who,
	}, nil
}
