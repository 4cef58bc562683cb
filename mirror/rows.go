package mirror

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"github.com/pgautomate/pgautomate/change"
)

// rows are the rows of one table. A row's bytes are
//
//	organization                      4 bytes, the top one of them flags
//	next, previous row of each list   8 bytes for each
//	length of the id, the id          unless the id is a kept column
//	length of the image, the image    a change.Row
//
// The lists are that of the organization, if asked for, and one for each link.
// A list's first row is found through heads, or the link's index; its previous
// is 0. A row that has no value (NULL, or one that was never sent) is in no list.
// As places are in the neighbours and in the indexes, a row that outgrows its
// slot has a new place entered in each of these, which takes no search.
type rows struct {
	shape

	seed  maphash.Seed
	slab  slab
	ids   index
	links []index
	heads []uint32 // by organization
	n     int
}

// shape is what all rows of a table have in common.
type shape struct {
	byOrganization bool
	id             int   // column that holds the id, or -1
	columns        []int // of the links' lists
	lists          int
	header         int // bytes before the id
}

const (
	// undone marks a row that a Loader has taken back to the checkpoint.
	undone        = 1 << 31
	organizations = undone - 1
)

func newRows(seed maphash.Seed, sh shape) rows {
	sh.lists = len(sh.columns)
	if sh.byOrganization {
		sh.lists++
	}
	sh.header = 4 + 8*sh.lists
	return rows{shape: sh, seed: seed, links: make([]index, len(sh.columns))}
}

func (r *rows) hash(b []byte) uint32 { return uint32(maphash.Bytes(r.seed, b) >> 32) }

// entry is a row where it lies.
type entry struct {
	bytes        []byte // from the row's first byte on
	id           []byte
	image        []byte
	organization uint32
	marked       bool
}

func (r *rows) entry(place uint32) entry {
	b := r.slab.at(place)
	flags := binary.LittleEndian.Uint32(b)
	e := entry{bytes: b, organization: flags & organizations, marked: flags&undone != 0}
	at := r.header
	if r.id < 0 {
		e.id, at = sized(b, at)
	}
	e.image, _ = sized(b, at)
	if r.id >= 0 {
		e.id, _ = cell(e.image, r.id)
	}
	return e
}

// sized reads bytes that have their length before them.
func sized(b []byte, at int) (data []byte, end int) {
	n := int(b[at])
	if at++; n >= 0x80 {
		long, w := binary.Uvarint(b[at-1:])
		n, at = int(long), at-1+w
	}
	end = at + n
	return b[at:end:end], end
}

func sizedLen(n int) int {
	size := n + 1
	for m := n; m >= 0x80; m >>= 7 {
		size++
	}
	return size
}

// cell finds a text cell of a well-formed row; not ok when it is NULL or unknown.
func cell(image []byte, column int) (data []byte, ok bool) {
	at := 2
	for ; column > 0; column-- {
		if image[at] == change.Text {
			at += 4 + int(binary.BigEndian.Uint32(image[at+1:]))
		}
		at++
	}
	if image[at] != change.Text {
		return nil, false
	}
	at += 5
	end := at + int(binary.BigEndian.Uint32(image[at-4:]))
	return image[at:end:end], true
}

// find gives a row's place, 0 if there is none of that id.
func (r *rows) find(hash uint32, id []byte) uint32 {
	c := r.ids.seek(hash)
	for place := c.row(); place != 0; place = c.row() {
		if r.isID(r.slab.at(place), id) {
			return place
		}
	}
	return 0
}

// isID compares no more than it must: this is what a Get costs.
func (r *rows) isID(b, id []byte) bool {
	at := r.header
	if r.id < 0 {
		if len(id) < 0x80 {
			end := at + 1 + len(id)
			return int(b[at]) == len(id) && end <= len(b) && string(b[at+1:end]) == string(id)
		}
		have, _ := sized(b, at)
		return bytes.Equal(have, id)
	}
	image, _ := sized(b, at)
	have, _ := cell(image, r.id)
	return bytes.Equal(have, id)
}

// lookup also gives what the row is.
func (r *rows) lookup(hash uint32, id []byte) (place uint32, e entry) {
	if place = r.find(hash, id); place != 0 {
		e = r.entry(place)
	}
	return place, e
}

// moved enters a row's new place in an index.
func moved(x *index, hash, from, to uint32) {
	c := x.seek(hash)
	for place := c.row(); place != 0; place = c.row() {
		if place == from {
			c.replace(to)
			return
		}
	}
	panic("mirror: a row is missing in its index")
}

func taken(x *index, hash, row uint32) {
	c := x.seek(hash)
	for place := c.row(); place != 0; place = c.row() {
		if place == row {
			x.remove(&c)
			return
		}
	}
	panic("mirror: a row is missing in its index")
}

// write makes a row what is given, at the place that it has, or as a new one.
// What is given must not lie in the table's own memory. When there is no room,
// nothing has changed.
func (r *rows) write(place, hash uint32, id []byte, organization uint32, image []byte) error {
	size := r.header + sizedLen(len(image))
	if r.id < 0 {
		size += sizedLen(len(id))
	}
	flags := organization
	organization &= organizations
	if place == 0 {
		if place = r.slab.alloc(size); place == 0 {
			return ErrFull
		}
		r.fill(place, id, flags, image)
		r.ids.insert(hash, place)
		for list := range r.lists {
			r.link(list, place)
		}
		r.n++
		return nil
	}

	to := place
	if !r.slab.fits(place, size) {
		if to = r.slab.alloc(size); to == 0 {
			return ErrFull
		}
	}
	before := r.entry(place)
	var changed uint64 // lists
	for list := range r.lists {
		if !r.sameKey(list, &before, organization, image) {
			changed |= 1 << list
			r.unlink(list, place)
		}
	}
	if to != place {
		copy(r.slab.at(to)[4:r.header], before.bytes[4:r.header])
		moved(&r.ids, hash, place, to)
		for list := range r.lists {
			if changed&(1<<list) == 0 {
				r.relink(list, place, to)
			}
		}
		r.slab.free(place)
	}
	r.fill(to, id, flags, image)
	for list := range r.lists {
		if changed&(1<<list) != 0 {
			r.link(list, to)
		}
	}
	return nil
}

// fill writes a row but for its lists.
func (r *rows) fill(place uint32, id []byte, flags uint32, image []byte) {
	b := r.slab.at(place)
	binary.LittleEndian.PutUint32(b, flags)
	at := r.header
	if r.id < 0 {
		at += binary.PutUvarint(b[at:], uint64(len(id)))
		at += copy(b[at:], id)
	}
	at += binary.PutUvarint(b[at:], uint64(len(image)))
	copy(b[at:], image)
}

func (r *rows) remove(place, hash uint32) {
	for list := range r.lists {
		r.unlink(list, place)
	}
	taken(&r.ids, hash, place)
	r.slab.free(place)
	r.n--
}

// The lists. With an organization's list, that is the first.

func (r *rows) isOrganization(list int) bool { return r.byOrganization && list == 0 }

// linkOf gives the number of a list's index, the first being that of the links.
func (r *rows) linkOf(list int) int {
	if r.byOrganization {
		return list - 1
	}
	return list
}

// key gives the value whose list a row is in.
func (r *rows) key(list int, e *entry) (value []byte, ok bool) {
	return cell(e.image, r.columns[r.linkOf(list)])
}

func (r *rows) sameKey(list int, e *entry, organization uint32, image []byte) bool {
	if r.isOrganization(list) {
		return e.organization == organization
	}
	before, had := r.key(list, e)
	after, has := cell(image, r.columns[r.linkOf(list)])
	return had == has && bytes.Equal(before, after)
}

func next(b []byte, list int) uint32     { return binary.LittleEndian.Uint32(b[4+8*list:]) }
func previous(b []byte, list int) uint32 { return binary.LittleEndian.Uint32(b[8+8*list:]) }

func setNext(b []byte, list int, place uint32) { binary.LittleEndian.PutUint32(b[4+8*list:], place) }

func setPrevious(b []byte, list int, place uint32) {
	binary.LittleEndian.PutUint32(b[8+8*list:], place)
}

// head gives the first row of a value's list.
func (r *rows) head(list int, value []byte) uint32 {
	first, _ := r.seekHead(list, r.hash(value), value)
	return first
}

func (r *rows) seekHead(list int, hash uint32, value []byte) (uint32, cursor) {
	c := r.links[r.linkOf(list)].seek(hash)
	for place := c.row(); place != 0; place = c.row() {
		e := r.entry(place)
		if v, _ := r.key(list, &e); bytes.Equal(v, value) {
			return place, c
		}
	}
	return 0, c
}

// link puts a row in front of its list.
func (r *rows) link(list int, place uint32) {
	e := r.entry(place)
	var first uint32
	if r.isOrganization(list) {
		for int(e.organization) >= len(r.heads) {
			r.heads = append(r.heads, 0)
		}
		first = r.heads[e.organization]
		r.heads[e.organization] = place
	} else {
		value, ok := r.key(list, &e)
		if !ok {
			return
		}
		// The row itself is not in the index yet.
		hash := r.hash(value)
		var c cursor
		if first, c = r.seekHead(list, hash, value); first != 0 {
			c.replace(place)
		} else {
			r.links[r.linkOf(list)].insert(hash, place)
		}
	}
	setNext(e.bytes, list, first)
	setPrevious(e.bytes, list, 0)
	if first != 0 {
		setPrevious(r.slab.at(first), list, place)
	}
}

func (r *rows) unlink(list int, place uint32) {
	e := r.entry(place)
	var value []byte
	if !r.isOrganization(list) {
		var ok bool
		if value, ok = r.key(list, &e); !ok {
			return
		}
	}
	after, before := next(e.bytes, list), previous(e.bytes, list)
	if after != 0 {
		setPrevious(r.slab.at(after), list, before)
	}
	switch {
	case before != 0:
		setNext(r.slab.at(before), list, after)
	case r.isOrganization(list):
		r.heads[e.organization] = after
	case after != 0:
		moved(&r.links[r.linkOf(list)], r.hash(value), place, after)
	default:
		taken(&r.links[r.linkOf(list)], r.hash(value), place)
	}
}

// relink enters a row's new place in its list. The row is still at the old one.
func (r *rows) relink(list int, from, to uint32) {
	e := r.entry(from)
	var value []byte
	if !r.isOrganization(list) {
		var ok bool
		if value, ok = r.key(list, &e); !ok {
			return
		}
	}
	after, before := next(e.bytes, list), previous(e.bytes, list)
	if after != 0 {
		setPrevious(r.slab.at(after), list, to)
	}
	switch {
	case before != 0:
		setNext(r.slab.at(before), list, to)
	case r.isOrganization(list):
		r.heads[e.organization] = to
	default:
		moved(&r.links[r.linkOf(list)], r.hash(value), from, to)
	}
}

func (r *rows) held() int64 {
	sum := r.slab.held() + r.ids.held() + int64(cap(r.heads))*4
	for i := range r.links {
		sum += r.links[i].held()
	}
	return sum
}
