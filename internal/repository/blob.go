package repository

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits of one metadata blob, in bytes: as stored, and inflated. A shard's file list has about 200 bytes a file.
const (
	MaxBlobSize     = 16 << 20
	maxInflatedSize = 32 << 20
)

// Lucene's header and footer around each metadata blob (org.apache.lucene.codecs.CodecUtil); the numbers are big endian in all
// Lucene versions, also from 9 on.
const (
	codecMagic  = 0x3FD76C17
	footerMagic = ^uint32(codecMagic)
	footerSize  = 16

	shardSnapshotCodec = "snapshot"
	indexMetadataCodec = "index-metadata"
	codecVersion       = 1
)

// The compressions that are known by their first bytes. OpenSearch 2.10 and newer has zstd as compression_type of a repository.
var (
	deflateMark = []byte("DFL\x00")
	otherMarks  = map[string]string{"ZSTD\x00": "zstd", "LZF\x00": "LZF"}
)

// openBlob checks the frame of a metadata blob and returns a reader of its content.
func openBlob(content []byte, codec string) (*smileReader, error) {
	if len(content) > MaxBlobSize {
		return nil, fmt.Errorf("the blob has %d bytes, the limit is %d", len(content), MaxBlobSize)
	}
	// magic, length of the codec's name (one byte up to 127), the name, version
	head := 4 + 1 + len(codec) + 4
	if len(content) < head+footerSize {
		return nil, fmt.Errorf("the blob has only %d bytes: it is cut off or no such blob", len(content))
	}
	if binary.BigEndian.Uint32(content) != codecMagic {
		return nil, errors.New("the blob does not begin as Lucene's codec header does")
	}
	if int(content[4]) != len(codec) || string(content[5:5+len(codec)]) != codec {
		return nil, fmt.Errorf("the blob's codec is not %q", codec)
	}
	if version := binary.BigEndian.Uint32(content[head-4:]); version != codecVersion {
		return nil, fmt.Errorf("the blob has version %d of the codec %q; only %d is known", version, codec, codecVersion)
	}
	foot := content[len(content)-footerSize:]
	if binary.BigEndian.Uint32(foot) != footerMagic || binary.BigEndian.Uint32(foot[4:]) != 0 {
		return nil, errors.New("the blob does not end as Lucene's codec footer does: it is cut off")
	}
	if sum := uint64(crc32.ChecksumIEEE(content[:len(content)-8])); sum != binary.BigEndian.Uint64(foot[8:]) {
		return nil, fmt.Errorf("the blob is corrupt: its checksum is %#x, it says %#x", sum, binary.BigEndian.Uint64(foot[8:]))
	}
	body := content[head : len(content)-footerSize]
	for mark, name := range otherMarks {
		if bytes.HasPrefix(body, []byte(mark)) {
			return nil, fmt.Errorf("the blob is compressed by %s, which is not supported; register the source's repository with "+
				"compress: false or without compression_type", name)
		}
	}
	if packed, ok := bytes.CutPrefix(body, deflateMark); ok {
		inflated, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxInflatedSize+1))
		if err != nil {
			return nil, fmt.Errorf("the blob cannot be inflated: %w", err)
		}
		if len(inflated) > maxInflatedSize {
			return nil, fmt.Errorf("the blob inflates to more than %d bytes", maxInflatedSize)
		}
		body = inflated
	}
	r, err := newSmileReader(body)
	if err != nil {
		return nil, fmt.Errorf("the blob's content cannot be read: %w", err)
	}
	return r, nil
}
