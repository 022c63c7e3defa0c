# The commands of Outcry. `just` alone prints this menu.

set shell := ["bash", "-euo", "pipefail", "-c"]

_menu:
    @just --list --unsorted

# the whole platform on http://localhost:8080 (PORT and OUTCRY_DATA move it)
[group('run')]
run *arguments:
    cargo run --release -- {{ arguments }}

# the same, with all earlier data forgotten
[group('run')]
fresh:
    cargo run --release -- --fresh

# an auction that prints what happens and checks the result (--url, --bidders, --items, --seconds)
[group('run')]
demo *arguments:
    cargo run --release -- demo {{ arguments }}

# one function in a process of its own, against NATS_URL and DATABASE_URL
[group('run')]
run-one function:
    cargo run --release -- run {{ function }}

# every function: what wakes it and what it says
[group('look')]
functions:
    cargo run --quiet --release -- functions

# the documentation of all crates, in a browser
[group('look')]
doc:
    cargo doc --workspace --no-deps --open

# all tests, or those whose name contains the word
[group('change')]
test *name:
    cargo test --workspace {{ name }}

# formatting and lints, as CI checks them
[group('change')]
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings

# refresh the cache against which SQL is checked, after a change to SQL or migrations
[group('change')]
prepare-sql *arguments:
    cargo run --package prepare-sql -- {{ arguments }}

# exactly what CI runs
[group('change')]
ci:
    .ci/run

# make databases, roles and tables (needs DATABASE_URL)
[group('operate')]
migrate:
    cargo run --release -- migrate

# make streams and consumers from nats/ (needs NATS_URL)
[group('operate')]
provision:
    cargo run --release -- provision

# the release binary of one function, alone
[group('operate')]
build function:
    cargo build --release --workspace --bin {{ function }}
