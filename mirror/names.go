package mirror

import (
	"encoding/binary"
	"hash/maphash"
	"unsafe"
)

// names numbers the organizations, so that a row holds four bytes of its own.
// Number 0 is "", a row that names none. A name stays for as long as the store
// does: the string that Row.Organization gives is those very bytes.
type names struct {
	seed       maphash.Seed
	ids        index
	chunks     [][]byte
	chunkBytes int64
	places     []uint64 // by number: chunk and offset

	lastName   string
	lastNumber uint32
}

const nameChunk = 16 << 10

func newNames(seed maphash.Seed) names { return names{seed: seed, places: make([]uint64, 1)} }

// find gives the number of a name that has one.
func (n *names) find(name string) (uint32, bool) {
	if name == n.lastName { // also: "", which is 0
		return n.lastNumber, true
	}
	c := n.ids.seek(n.hash(name))
	for number := c.row(); number != 0; number = c.row() {
		if n.name(number) == name {
			n.lastName, n.lastNumber = n.name(number), number
			return number, true
		}
	}
	return 0, name == ""
}

func (n *names) hash(name string) uint32 { return uint32(maphash.String(n.seed, name) >> 32) }

// number gives the number of a name, a new one if need be.
func (n *names) number(name string) uint32 {
	if number, ok := n.find(name); ok {
		return number
	}
	size := binary.MaxVarintLen32 + len(name)
	last := len(n.chunks) - 1
	if last < 0 || cap(n.chunks[last])-len(n.chunks[last]) < size {
		n.chunks = append(n.chunks, make([]byte, 0, max(nameChunk, size)))
		n.chunkBytes += int64(max(nameChunk, size))
		last++
	}
	at := len(n.chunks[last])
	n.chunks[last] = append(binary.AppendUvarint(n.chunks[last], uint64(len(name))), name...)
	number := uint32(len(n.places))
	n.places = append(n.places, uint64(last)<<32|uint64(at))
	n.ids.insert(n.hash(name), number)
	return number
}

func (n *names) name(number uint32) string {
	if number == 0 {
		return ""
	}
	place := n.places[number]
	b := n.chunks[place>>32][uint32(place):]
	size, w := binary.Uvarint(b)
	b = b[w : w+int(size)]
	return unsafe.String(unsafe.SliceData(b), len(b)) // never written again
}

func (n *names) held() int64 { return n.chunkBytes + int64(cap(n.places))*8 + n.ids.held() }
