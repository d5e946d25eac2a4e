# Two commands matter to a newcomer: `make demo` and `make test`. Both need root,
# for the network namespaces of the lab; neither changes this machine's network.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The real programs that the tests and the demo talk to, and where they differ
# the Debian packages they come in.
PEERS := nginx=nginx-light curl git openssl sqlite3 ip=iproute2 update-ca-certificates=ca-certificates \
	dig=dnsutils ping=iputils-ping sshd=openssh-server ssh=openssh-client \
	python3 node=nodejs javac=default-jdk-headless certutil=libnss3-tools

.PHONY: all build demo test check race vet bench fuzz peers clean

all: build

build: bin/clawpatrol

# The binary is always handed to the Go tool, which knows best what is stale.
.PHONY: bin/clawpatrol
bin/clawpatrol:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/clawpatrol

peers:
	@sh e2e/peers.sh $(PEERS)

demo: bin/clawpatrol peers
	$(GO) run ./e2e/demo -bin bin/clawpatrol

test: bin/clawpatrol peers
	CLAWPATROL_BIN=$(CURDIR)/bin/clawpatrol $(GO) test -count=1 -timeout 15m ./...

check: vet race

vet:
	@test -z "$$(gofmt -l .)" || { echo "gofmt: these files want formatting:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	@sh e2e/govulncheck.sh $(GO) $(GOVULNCHECK)

# Everything in-process under the race detector; e2e runs the built binary and is
# part of `make test`.
race: peers
	$(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v '/e2e')

bench: bin/clawpatrol peers
	$(GO) run ./e2e/bench -bin bin/clawpatrol

FUZZTIME ?= 20s
fuzz:
	@sh e2e/fuzz.sh $(GO) $(FUZZTIME)

clean:
	rm -rf bin
