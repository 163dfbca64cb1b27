package s3copy

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/domainferry/domainferry/internal/repository"
)

// Shape is how the objects of a repository lie in its key space: pieces that follow each other, those inside the base path first.
// It is small, whatever the repository's size.
type Shape struct {
	Pieces []Piece `json:"pieces"`
}

// Piece is a range of a shape: keys above the piece before, up to Through; an empty Through has no upper end.
type Piece struct {
	Through string `json:"through"`
	Outside bool   `json:"outside,omitempty"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// maxPieces bounds a shape; two neighbours become one when there would be more.
const maxPieces = 256

// weigh is the time that a piece takes, in requests: each object is one, and about 10 MB take as long as one, where S3's limits of
// requests and of bytes between Regions meet (s3-copy.md 5).
func (p Piece) weigh() float64 { return float64(p.Objects) + float64(p.Bytes)/10e6 }

// sketch makes a shape of one range while it is listed.
type sketch struct {
	pieces  []Piece
	current Piece
	every   int64 // objects a piece
}

func newSketch(outside bool) *sketch { return &sketch{current: Piece{Outside: outside}, every: 64} }

func (k *sketch) add(o object) {
	k.current.Objects++
	k.current.Bytes += o.size
	if k.current.Objects < k.every {
		return
	}
	k.current.Through = strings.Clone(o.key)
	k.pieces = append(k.pieces, k.current)
	k.current = Piece{Outside: k.current.Outside}
	if len(k.pieces) < maxPieces {
		return
	}
	k.every *= 2
	k.pieces = halve(k.pieces)
}

// halve joins neighbours two by two.
func halve(pieces []Piece) []Piece {
	joined := pieces[:0]
	for i := 0; i < len(pieces); i++ {
		p := pieces[i]
		if i+1 < len(pieces) && pieces[i+1].Outside == p.Outside {
			i++
			p = Piece{Through: pieces[i].Through, Outside: p.Outside, Objects: p.Objects + pieces[i].Objects, Bytes: p.Bytes + pieces[i].Bytes}
		}
		joined = append(joined, p)
	}
	return joined
}

// end returns the pieces of the range, the last of which ends where the range does.
func (k *sketch) end(through string) []Piece {
	k.current.Through = through
	return append(k.pieces, k.current)
}

// shapeOf joins the pieces of ranges, which are in order.
func shapeOf(ranges [][]Piece) *Shape {
	pieces := slices.Concat(ranges...)
	for len(pieces) > maxPieces {
		before := len(pieces)
		if pieces = halve(pieces); len(pieces) == before {
			break
		}
	}
	return &Shape{Pieces: pieces}
}

// Totals are all objects and bytes of a shape.
func (s *Shape) Totals() (objects, bytes int64) {
	for _, p := range s.Pieces {
		objects += p.Objects
		bytes += p.Bytes
	}
	return objects, bytes
}

// worthwhile is the weight below which a range of its own costs more than it saves.
const worthwhile = 2000.0

// cut makes at most the given number of ranges of like weight, each a run of pieces, for a repository that has keys outside its base
// path or not. The ranges cover the key space, whatever the shape holds.
func (s *Shape) cut(ranges int, outside bool) []Range {
	total, outsideTotal := 0.0, 0.0
	for _, p := range s.Pieces {
		total += p.weigh()
		if p.Outside {
			outsideTotal += p.weigh()
		}
	}
	ranges = min(ranges, int(total/worthwhile)+1)
	if !outside {
		return s.side(ranges, false)
	}
	out := min(max(int(float64(ranges)*outsideTotal/max(total, 1)+0.5), 1), max(ranges-1, 1))
	return append(s.side(max(ranges-out, 1), false), s.side(out, true)...)
}

// side cuts one side of the base path.
func (s *Shape) side(ranges int, outside bool) []Range {
	total := 0.0
	for _, p := range s.Pieces {
		if p.Outside == outside {
			total += p.weigh()
		}
	}
	made := []Range{}
	after, weight := "", 0.0
	for _, p := range s.Pieces {
		if p.Outside != outside {
			continue
		}
		weight += p.weigh()
		if p.Through > after && len(made) < ranges-1 && weight >= total*float64(len(made)+1)/float64(ranges) {
			made = append(made, Range{After: after, Through: p.Through, Outside: outside})
			after = p.Through
		}
	}
	return append(made, Range{After: after, Outside: outside})
}

const indicesFolder = "indices/"

// sampledShards is the number of shards whose objects are estimated by a look at their first page. Above it there are enough shards for
// their differences to even out.
const sampledShards = 512

// probers is the number of small listings under way at once.
const probers = 64

// sample estimates the shape of a repository that was never listed: the folders of its indices and shards, and of each shard how many
// objects it holds. The pieces end between folders ("indices/<id>0", as '0' follows '/') and, in large shards, between data blobs,
// so whatever is written later falls into exactly one of them.
func (s *session) sample(ctx context.Context, from Location, wanted int) (*Shape, error) {
	folders, err := s.folders(ctx, from, indicesFolder)
	if err != nil {
		return nil, err
	}
	if len(folders) < wanted*4 {
		if folders, err = s.shards(ctx, from, folders); err != nil {
			return nil, err
		}
	}
	// Folders beside indices/ hold the shards of a repository whose base path is the bucket, or of a node's own file system: one a shard.
	var beside []string
	if wanted > 1 {
		if beside, err = s.folders(ctx, from, ""); err != nil {
			return nil, err
		}
		beside = slices.DeleteFunc(beside, func(f string) bool {
			return f == indicesFolder || repository.Classify(f+"x") == repository.Verification
		})
	}
	all := slices.Concat(folders, beside)
	slices.Sort(all)
	shape := &Shape{}
	if len(all) > sampledShards {
		for _, folder := range all {
			shape.Pieces = append(shape.Pieces, Piece{Through: endOf(folder), Objects: 1000})
		}
	} else if shape.Pieces, err = s.weighFolders(ctx, from, all, wanted); err != nil {
		return nil, err
	}
	return shape, nil
}

// guessOutside adds pieces for shards outside the base path: a hash is spread evenly over its alphabet, and so are the shards.
func (s *Shape) guessOutside() {
	inside, _ := s.Totals()
	for i := range len(blobAlphabet) {
		s.Pieces = append(s.Pieces, Piece{Through: blobAlphabet[i : i+1], Outside: true, Objects: max(inside, 64_000) / 64})
	}
}

// shards lists the folders below those of indices; an index without any stands for itself.
func (s *session) shards(ctx context.Context, from Location, indices []string) ([]string, error) {
	below := make([][]string, len(indices))
	err := s.each(ctx, len(indices), func(ctx context.Context, i int) (err error) {
		below[i], err = s.folders(ctx, from, indices[i])
		if len(below[i]) == 0 {
			below[i] = []string{indices[i]}
		}
		return err
	})
	return slices.Concat(below...), err
}

// weighFolders looks at the first page of each folder.
func (s *session) weighFolders(ctx context.Context, from Location, folders []string, wanted int) ([]Piece, error) {
	pieces := make([][]Piece, len(folders))
	err := s.each(ctx, len(folders), func(ctx context.Context, i int) error {
		page, err := s.page(ctx, s.sourceLister, Listing{Bucket: from.Bucket, Prefix: from.key(folders[i])})
		if err == nil {
			pieces[i] = estimate(page, from.base(), folders[i], wanted)
		}
		return err
	})
	return slices.Concat(pieces...), err
}

// estimate makes pieces of a folder of which one page is known. The names of data blobs are random, so that the part of their
// space that a page covers tells how many there are.
func estimate(page Page, base, folder string, wanted int) []Piece {
	whole := Piece{Through: endOf(folder), Objects: int64(len(page.Objects))}
	for _, o := range page.Objects {
		whole.Bytes += o.Size
	}
	if page.Next == "" || len(page.Objects) == 0 {
		return []Piece{whole}
	}
	last := strings.TrimPrefix(page.Objects[len(page.Objects)-1].Key, base)
	name, data := strings.CutPrefix(last, folder+"__")
	covered := fraction(name)
	if !data || covered <= 0 {
		return []Piece{whole} // not the names that are known: the next round knows more
	}
	objects := float64(whole.Objects) / covered
	size := float64(whole.Bytes) / covered
	n := min(4*wanted, int(objects/1000)+1, len(blobAlphabet))
	pieces := make([]Piece, n)
	for i := range pieces {
		pieces[i] = Piece{Objects: int64(objects / float64(n)), Bytes: int64(size / float64(n))}
		pieces[i].Through = folder + "__" + nameAt(float64(i+1)/float64(n))
	}
	pieces[n-1].Through = endOf(folder)
	return pieces
}

// blobAlphabet is that of the names of data blobs (base64 for URLs), in byte order.
const blobAlphabet = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

// fraction says where in [0, 1) a name lies in the space of names.
func fraction(name string) float64 {
	at, unit := 0.0, 1.0
	for _, c := range []byte(name[:min(len(name), 4)]) {
		unit /= float64(len(blobAlphabet))
		i := strings.IndexByte(blobAlphabet, c)
		if i < 0 {
			break
		}
		at += float64(i) * unit
	}
	return at
}

// nameAt is the inverse of fraction, to two characters.
func nameAt(at float64) string {
	const n = len(blobAlphabet)
	i := min(int(at*float64(n*n)), n*n-1)
	return string([]byte{blobAlphabet[i/n], blobAlphabet[i%n]})
}

// each runs fn for 0 to n-1, some at once, and returns the first error.
func (s *session) each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var working sync.WaitGroup
	for range min(n, probers) {
		working.Go(func() {
			for i := range next {
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	working.Wait()
	return context.Cause(ctx)
}

// endOf returns the lowest string above every key in a folder.
func endOf(folder string) string { return strings.TrimSuffix(folder, "/") + "0" }
