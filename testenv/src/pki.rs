//! The test CA of a run, and certificates from it. Keys are P-256, files are PEM, names are loopback names only.
//!
//! The CA is made at the first use in a run folder and read again afterwards, so all parts of a run share it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use serde::{Deserialize, Serialize};

use crate::places;

/// A CA whose certificate and key lie in a folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PKCS#8 PEM, readable by its owner only.
    pub key: PathBuf,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// A server on 127.0.0.1 and localhost, and under these further names and addresses.
    Server(&'a [&'a str], &'a [IpAddr]),
    /// A client; the organisation is its Kubernetes group.
    Client {
        /// Kubernetes group.
        organisation: &'a str,
    },
}

impl Authority {
    /// The CA in `folder`, made if it is not there yet.
    pub fn open(folder: &Path) -> Result<Self> {
        places::open_folder(folder)?;
        let _lock = places::lock(&folder.join(".lock"), "test CA")?;
        let (certificate, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
        let params = Self::params();
        let key = if certificate.exists() {
            KeyPair::from_pem(&fs::read_to_string(&key_file)?).context("the key of the test CA is damaged")?
        } else {
            let key = KeyPair::generate()?;
            places::write_private(&key_file, key.serialize_pem().as_bytes())?;
            fs::write(&certificate, params.self_signed(&key)?.pem())?;
            key
        };
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("es-index-merge test CA", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Issues a certificate into the files `FOLDER/STEM.crt` and `FOLDER/STEM.key`.
    pub fn issue(&self, folder: &Path, stem: &str, common_name: &str, purpose: Purpose<'_>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        match purpose {
            Purpose::Server(names, addresses) => {
                params.distinguished_name = name(common_name, None);
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
                for dns in ["localhost"].iter().chain(names) {
                    params.subject_alt_names.push(SanType::DnsName((*dns).try_into()?));
                }
                params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
            }
            Purpose::Client { organisation } => {
                params.distinguished_name = name(common_name, Some(organisation));
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair =
            Pair { certificate: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) };
        fs::write(&pair.certificate, certificate.pem())?;
        places::write_private(&pair.key, key.serialize_pem().as_bytes())?;
        Ok(pair)
    }
}

/// A key pair for signing tokens: the private key (PKCS#8) and the public key, as PEM files.
pub fn signing_key(folder: &Path, stem: &str) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let (private, public) = (folder.join(format!("{stem}.key")), folder.join(format!("{stem}.pub")));
    places::write_private(&private, key.serialize_pem().as_bytes())?;
    fs::write(&public, key.public_key_pem())?;
    Ok((private, public))
}

fn name(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    name
}
