package mirror

import (
	"encoding/binary"
	"math/bits"
)

// slab holds rows as bytes: in pages, each cut into slots of one size, and the
// large ones each by itself. A row's place is a 32-bit number that never is 0:
// page and offset in it, or bigBit and the number of a large row.
//
// A page without rows is given back, so that a table whose rows change their
// size does not keep the room of the old ones.
type slab struct {
	pages    []page
	released []uint32            // numbers of pages that can be used again
	open     [classes + 1]uint32 // by class: the first page with a free slot
	count    [classes + 1]uint32 // by class: pages
	big      [][]byte            // large rows
	bigFree  []uint32            // numbers of large rows that can be used again
	bytes    int64               // of pages and large rows
}

// page is a block of slots of one class. Places in it are counted in units; a
// free slot holds the place of the next one, plus 1.
type page struct {
	data       []byte
	next, prev uint32 // among the class's pages with a free slot
	free       uint16 // first free slot, plus 1
	fresh      uint16 // from here on no slot was ever used
	used       uint16 // slots
	class      uint8
}

const (
	unit      = 8
	pageBits  = 15
	pageSize  = unit << pageBits
	firstPage = 2 << 10 // a class starts with small pages, for tables of a few rows
	largest   = 16 << 10
	bigBit    = 1 << 31
	maxPages  = 1 << (31 - pageBits)
	classes   = 64 + 8*5
)

// classOf gives the class of slots for a size: steps of 8 bytes up to 512, then
// eight steps to the double.
func classOf(size int) int {
	if size <= 512 {
		return (size + unit - 1) / unit
	}
	k := bits.Len(uint(size-1)) - 10
	return 64 + 8*k + (size-512<<k+64<<k-1)/(64<<k)
}

func classSize(class int) int {
	if class <= 64 {
		return class * unit
	}
	k := (class - 65) / 8
	return 512<<k + (class-64-8*k)*(64<<k)
}

// at gives the slot's bytes, and what follows it in the page.
func (s *slab) at(place uint32) []byte {
	if place&bigBit != 0 {
		return s.big[place&^bigBit]
	}
	return s.pages[place>>pageBits].data[place&(1<<pageBits-1)*unit:]
}

// fits says whether a row of that size can stay in a slot.
func (s *slab) fits(place uint32, size int) bool {
	if place&bigBit != 0 {
		room := len(s.big[place&^bigBit])
		return size > largest && size <= room && size >= room/2
	}
	return size <= largest && classOf(size) == int(s.pages[place>>pageBits].class)
}

// alloc gives a slot for so many bytes, 0 when there is no room.
func (s *slab) alloc(size int) uint32 {
	if size > largest {
		return s.allocBig(size)
	}
	class := classOf(size)
	number := s.open[class]
	if number == 0 {
		if number = s.newPage(class); number == 0 {
			return 0
		}
	}
	p := &s.pages[number]
	var at uint16
	if p.free != 0 {
		at = p.free - 1
		p.free = binary.LittleEndian.Uint16(p.data[int(at)*unit:])
	} else {
		at = p.fresh
		p.fresh += uint16(classSize(class) / unit)
	}
	p.used++
	if p.full() {
		s.close(number)
	}
	return number<<pageBits | uint32(at)
}

func (p *page) full() bool {
	return p.free == 0 && int(p.fresh)*unit+classSize(int(p.class)) > len(p.data)
}

func (s *slab) free(place uint32) {
	if place&bigBit != 0 {
		number := place &^ bigBit
		s.bytes -= int64(cap(s.big[number]))
		s.big[number] = nil
		s.bigFree = append(s.bigFree, number)
		return
	}
	number := place >> pageBits
	p := &s.pages[number]
	wasFull := p.full()
	at := uint16(place & (1<<pageBits - 1))
	binary.LittleEndian.PutUint16(p.data[int(at)*unit:], p.free)
	p.free = at + 1
	p.used--
	if wasFull {
		s.reopen(number)
	}
	// The class's last page with room stays, lest a page come and go with one row.
	if p.used == 0 && (p.next != 0 || p.prev != 0) {
		s.release(number)
	}
}

func (s *slab) newPage(class int) uint32 {
	var number uint32
	if n := len(s.released); n > 0 {
		number = s.released[n-1]
		s.released = s.released[:n-1]
	} else {
		if len(s.pages) == 0 {
			s.pages = append(s.pages, page{}) // no row has the place 0
		}
		if len(s.pages) >= maxPages {
			return 0
		}
		number = uint32(len(s.pages))
		s.pages = append(s.pages, page{})
	}
	size := pageSize
	if s.count[class] < 7 {
		size = max(firstPage<<s.count[class], classSize(class))
	}
	s.count[class]++
	s.pages[number] = page{data: make([]byte, size), class: uint8(class)}
	s.bytes += int64(size)
	s.reopen(number)
	return number
}

func (s *slab) release(number uint32) {
	s.close(number)
	p := &s.pages[number]
	s.bytes -= int64(len(p.data))
	s.count[p.class]--
	*p = page{}
	s.released = append(s.released, number)
}

// reopen puts a page in front of its class's pages with room.
func (s *slab) reopen(number uint32) {
	p := &s.pages[number]
	p.prev, p.next = 0, s.open[p.class]
	if p.next != 0 {
		s.pages[p.next].prev = number
	}
	s.open[p.class] = number
}

func (s *slab) close(number uint32) {
	p := &s.pages[number]
	if p.prev != 0 {
		s.pages[p.prev].next = p.next
	} else {
		s.open[p.class] = p.next
	}
	if p.next != 0 {
		s.pages[p.next].prev = p.prev
	}
	p.prev, p.next = 0, 0
}

func (s *slab) allocBig(size int) uint32 {
	var number uint32
	if n := len(s.bigFree); n > 0 {
		number = s.bigFree[n-1]
		s.bigFree = s.bigFree[:n-1]
	} else {
		number = uint32(len(s.big))
		s.big = append(s.big, nil)
	}
	// Some room to grow in place: a counter in a large value, say.
	s.big[number] = make([]byte, size+size/16)
	s.bytes += int64(cap(s.big[number]))
	return bigBit | number
}

func (s *slab) held() int64 {
	const perPage, perBig = 40, 24
	return s.bytes + int64(cap(s.pages))*perPage + int64(cap(s.big))*perBig + int64(cap(s.released)+cap(s.bigFree))*4
}
