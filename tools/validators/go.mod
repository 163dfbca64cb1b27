// A module of its own without any Go: some npm packages carry Go files, which ./... of the project must not see.
module github.com/domainferry/domainferry/tools/validators

go 1.26.0
