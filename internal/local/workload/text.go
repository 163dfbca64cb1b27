package workload

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// vocabulary is a few thousand made-up words, the same in every run. Real dictionaries would be larger than this package; what matters
// to segments and compression is the skewed frequency of words, which words() gives.
var vocabulary = func() []string {
	syllables := strings.Fields("ba be bi bo ca ce co cu da de di do fa fe fi ga ge go ha he hi in ja jo ka ke ki la le li lo ma me mi mo na ne ni " +
		"no or pa pe pi po ra re ri ro sa se si so ta te ti to un va ve vi wa we xa ya za zo st tr ch")
	random := rand.New(rand.NewPCG(7, 11))
	seen := map[string]bool{}
	var words []string
	for len(words) < 6000 {
		var word strings.Builder
		for range 2 + random.IntN(3) {
			word.WriteString(syllables[random.IntN(len(syllables))])
		}
		if !seen[word.String()] {
			seen[word.String()] = true
			words = append(words, word.String())
		}
	}
	return words
}()

var (
	levels     = []string{"INFO", "INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARN", "ERROR"}
	methods    = []string{"GET", "GET", "GET", "GET", "POST", "PUT", "DELETE"}
	statuses   = []int{200, 200, 200, 200, 201, 204, 301, 304, 400, 403, 404, 500, 503}
	services   = []string{"checkout", "search", "basket", "identity", "payments", "stock", "mail", "recommendations", "images", "gateway"}
	colours    = []string{"black", "white", "red", "green", "blue", "grey", "yellow", "brown"}
	sizes      = []string{"XS", "S", "M", "L", "XL"}
	categories = []string{"garden", "kitchen", "office", "outdoor", "books", "toys", "music", "tools", "lighting", "textiles"}
	continents = []string{"Africa", "America", "Antarctica", "Asia", "Europe", "Oceania"}
)

// firstLogLine is the time of the first log line that Fill writes; a fixed time, so that equal seeds give equal documents.
var firstLogLine = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// words appends n words, few of them often and most of them seldom, as in prose.
func words(to []byte, random *rand.Rand, n int) []byte {
	for i := range n {
		if i > 0 {
			to = append(to, ' ')
		}
		f := random.Float64()
		to = append(to, vocabulary[int(f*f*f*float64(len(vocabulary)))]...)
	}
	return to
}

func number(to []byte, n int) []byte { return strconv.AppendInt(to, int64(n), 10) }

func hexadecimal(to []byte, n uint64) []byte { return strconv.AppendUint(to, n, 16) }

func logLine(to []byte, random *rand.Rand, at time.Time) []byte {
	to = append(to, `{"@timestamp":"`...)
	to = at.UTC().AppendFormat(to, "2006-01-02T15:04:05.000Z")
	to = append(to, `","level":"`...)
	to = append(to, pick(random, levels)...)
	service := pick(random, services)
	to = append(append(to, `","service":"`...), service...)
	to = append(append(to, `","host":"`...), service...)
	to = number(append(to, '-'), random.IntN(12))
	to = append(to, `","client":"10.`...)
	to = number(to, random.IntN(4))
	to = number(append(to, '.'), random.IntN(256))
	to = number(append(to, '.'), random.IntN(256))
	to = append(append(to, `","method":"`...), pick(random, methods)...)
	to = append(append(to, `","path":"/`...), service...)
	to = append(append(to, '/'), vocabulary[random.IntN(400)]...)
	to = number(append(to, '/'), random.IntN(100000))
	to = number(append(to, `","status":`...), pick(random, statuses))
	to = number(append(to, `,"bytes":`...), random.IntN(65536))
	to = number(append(to, `,"micros":`...), random.IntN(2000000))
	to = hexadecimal(append(to, `,"trace":"`...), random.Uint64())
	to = append(to, `","message":"`...)
	to = words(to, random, 12+random.IntN(30))
	return append(to, '"')
}

func product(to []byte, random *rand.Rand, n uint32) []byte {
	to = number(append(to, `{"sku":"P-`...), 100000+int(n))
	to = append(to, `","name":"`...)
	to = words(to, random, 2+random.IntN(3))
	to = append(append(to, `","category":"`...), pick(random, categories)...)
	to = append(to, `","status":"`...)
	to = append(to, pick(random, []string{"live", "live", "live", "draft", "withdrawn"})...)
	to = price(append(to, `",`...), random)
	to = append(to, `,"description":"`...)
	to = words(to, random, 60+random.IntN(80))
	to = append(to, `","attributes":[`...)
	for i := range 1 + random.IntN(4) {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(append(to, `{"colour":"`...), pick(random, colours)...)
		to = append(append(to, `","size":"`...), pick(random, sizes)...)
		to = number(append(to, `","grams":`...), 10+random.IntN(5000))
		to = append(to, '}')
	}
	return append(to, ']')
}

// price appends the fields that a partial update of a product changes.
func price(to []byte, random *rand.Rand) []byte {
	to = number(append(to, `"cents":`...), 99+random.IntN(99900))
	return number(append(to, `,"stock":`...), random.IntN(500))
}

func country(to []byte, random *rand.Rand, n uint32) []byte {
	to = number(append(to, `{"code":"C`...), int(n))
	to = append(to, `","name":"`...)
	to = words(to, random, 1+random.IntN(2))
	to = append(append(to, `","continent":"`...), pick(random, continents)...)
	to = number(append(to, `","population":`...), random.IntN(200_000_000))
	to = append(to, `,"independent":`...)
	to = strconv.AppendBool(to, random.IntN(5) > 0)
	to = append(to, `,"languages":["`...)
	to = words(to, random, 1)
	to = words(append(to, `","`...), random, 1)
	to = append(to, `"],"facts":"`...)
	to = words(to, random, 430+random.IntN(220))
	return append(to, '"')
}
