//! `scaffold domain` and `scaffold relay`: a crate with a database of its own, its place in the platform, and who
//! publishes what it says.

use anyhow::ensure;

use crate::{
    compose,
    edits::Edits,
    names::Name,
    repository::{KEPT, Repository},
    text,
};

/// Works out what a new domain changes. Returns the changes, and what could not be done.
pub(crate) fn plan(repository: &Repository, name: Name) -> anyhow::Result<(Edits, Vec<String>)> {
    let name = name.of_domain()?;
    repository.check_free(&name)?;
    repository.check_free_package(&name)?;
    for part in KEPT {
        repository.check_free(&format!("{name}-{part}").parse()?)?;
    }
    let mut edits = Edits::below(&repository.root);
    let words = format!("functions/contracts/src/{name}.rs");
    ensure!(!edits.exists(&words), "{name} is taken: {words} is there already");
    let named = |template: &str| {
        template.replace("somedomain", name.kebab()).replace("SOMEDOMAIN", &name.kebab().to_uppercase())
    };
    let folder = format!("functions/{name}");
    let manifest = named(include_str!("../templates/domain/manifest.toml"));
    edits.create(&format!("{folder}/Cargo.toml"), manifest)?;
    for (path, template) in [
        ("build.rs", include_str!("../templates/domain/build.rs")),
        ("sqlx.toml", include_str!("../templates/domain/sqlx.toml")),
        ("src/lib.rs", include_str!("../templates/domain/lib.rs")),
    ] {
        edits.create(&format!("{folder}/{path}"), named(template))?;
    }
    edits.create(
        &format!("migrations/{name}/0001_first.sql"),
        named(include_str!("../templates/domain/first.sql")),
    )?;
    edits.create(&words, named(include_str!("../templates/domain/contracts.rs")))?;
    edits.change("functions/contracts/src/lib.rs", |text| Ok(text::module(text, name.kebab())))?;

    let domains = repository.domains()?;
    let is_domain = |line: &str| domains.iter().any(|one| line.starts_with(&format!("{one} = {{ path = ")));
    let mut left = Vec::new();
    let line = format!("{name} = {{ path = \"{folder}\" }}\n");
    edits.change("Cargo.toml", |text| {
        text::line_after_last(text, is_domain, &line).ok_or_else(|| anyhow::anyhow!("it names no domain"))
    })?;
    edits
        .change("functions/outcry/Cargo.toml", |text| text::dependency(text, "dependencies", name.kebab()))?;
    edits.change("functions/outcry/src/lib.rs", |text| {
        let text = text::add_to_list(text, "functions", "::functions()", &format!("{name}::functions()"))?;
        text::add_to_list(&text, "databases", "::database()", &format!("{name}::database()"))
    })?;
    edits.change(compose::FILE, |text| compose::domain(text, &domains, &name))?;
    let line = format!("#{}_DATABASE_URL=\n", name.kebab().to_uppercase());
    let is_alike = |line: &str| {
        domains.iter().any(|one| line.starts_with(&format!("#{}_DATABASE_URL=", one.to_uppercase())))
    };
    match text::line_after_last(&edits.read(".env.example")?, is_alike, &line) {
        Some(text) => edits.change(".env.example", |_| Ok(text))?,
        None => left.push(format!(".env.example lists no databases of domains for {}", line.trim())),
    }
    edits.format()?;
    Ok((edits, left))
}

/// Works out the relay of a domain that is about to say something.
pub(crate) fn plan_relay(repository: &Repository, domain: &Name) -> anyhow::Result<Edits> {
    repository.check_domain(domain)?;
    let relay: Name = format!("{domain}-relay").parse()?;
    repository.check_free(&relay)?;
    let mut edits = Edits::below(&repository.root);
    let code = include_str!("../templates/domain/relay.rs").replace("somedomain", domain.kebab());
    edits.create(&format!("functions/{domain}/src/bin/{relay}.rs"), code)?;
    edits.change(&format!("functions/{domain}/Cargo.toml"), |text| {
        Ok(text::bin(text, relay.kebab(), None, relay.kebab()))
    })?;
    edits.change(compose::FILE, |text| compose::function(text, domain.kebab(), &relay))?;
    edits.format()?;
    Ok(edits)
}
