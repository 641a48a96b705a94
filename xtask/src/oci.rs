//! OCI image archives: a tar of an image layout (OCI image-spec 1.1, image-layout.md), with the `manifest.json`
//! beside it that `docker load` reads.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::str::FromStr;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use serde_json::json;

use crate::cache::digest;
use crate::layer::Layer;

/// All images are made at the epoch: their content says what they are, not the hour.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// The annotation by which containerd names an imported image.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The annotation by which other tools find an image in a layout.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// Search path of a container whose image has a shell.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a container of the image runs.
#[derive(Default)]
pub struct Behaviour {
    /// `user[:group]`; empty is root.
    pub user: &'static str,
    /// Environment, `NAME=value` each.
    pub env: Vec<String>,
    /// The program, if it is fixed.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the default command.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image layout being put together.
pub struct Archive {
    /// Reference of the image: `registry/name:tag`.
    reference: String,
    blobs: BTreeMap<String, Vec<u8>>,
    images: Vec<Image>,
}

struct Image {
    arch: Arch,
    manifest: Descriptor,
    config_digest: String,
    layer_digest: String,
}

impl Archive {
    /// An empty archive for the image `reference`.
    pub fn new(reference: &str) -> Self {
        Self { reference: reference.to_owned(), blobs: BTreeMap::new(), images: Vec::new() }
    }

    /// Adds an image of one layer for an architecture.
    pub fn image(&mut self, arch: Arch, layer: &Layer, how: &Behaviour) -> Result<()> {
        let tar = layer.to_tar()?;
        let diff_id = format!("sha256:{}", digest(&tar));
        // The header of gzip holds a time and a name: neither is set.
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar)?;
        let layer_blob = self.blob(MediaType::ImageLayerGzip, gzip.finish()?)?;

        let labels: HashMap<String, String> = how.labels.clone().into_iter().collect();
        let mut config = ConfigBuilder::default().env(how.env.clone()).labels(labels);
        if !how.user.is_empty() {
            config = config.user(how.user);
        }
        if !how.entrypoint.is_empty() {
            config = config.entrypoint(how.entrypoint.clone());
        }
        if !how.cmd.is_empty() {
            config = config.cmd(how.cmd.clone());
        }
        let configuration = ImageConfigurationBuilder::default()
            .created(CREATED)
            .architecture(arch.clone())
            .os(Os::Linux)
            .config(config.build()?)
            .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id]).build()?)
            .history(Vec::new())
            .build()?;
        let config_blob = self.blob(MediaType::ImageConfig, json_bytes(&configuration)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config_blob.clone())
            .layers(vec![layer_blob.clone()])
            .build()?;
        let mut manifest = self.blob(MediaType::ImageManifest, json_bytes(&manifest)?)?;
        manifest.set_platform(Some(PlatformBuilder::default().architecture(arch.clone()).os(Os::Linux).build()?));
        self.images.push(Image {
            arch,
            manifest,
            config_digest: config_blob.digest().digest().to_owned(),
            layer_digest: layer_blob.digest().digest().to_owned(),
        });
        Ok(())
    }

    /// Writes the archive. One image stands in the layout's index itself, several in an index of their own.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let manifests: Vec<Descriptor> = self.images.iter().map(|image| image.manifest.clone()).collect();
        let mut top = match manifests.as_slice() {
            [one] => one.clone(),
            _ => {
                let index = ImageIndexBuilder::default()
                    .schema_version(SCHEMA_VERSION)
                    .media_type(MediaType::ImageIndex)
                    .manifests(manifests)
                    .build()?;
                self.blob(MediaType::ImageIndex, json_bytes(&index)?)?
            }
        };
        let tag = self.reference.rsplit(':').next().unwrap_or("latest").to_owned();
        top.set_annotations(Some(HashMap::from([
            (NAME_ANNOTATION.to_owned(), self.reference.clone()),
            (REF_ANNOTATION.to_owned(), tag),
        ])));
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![top])
            .build()?;

        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        append(&mut tar, "index.json", &json_bytes(&index)?)?;
        // Docker's form knows no index: several images are loaded side by side, each with its architecture for a tag.
        let alone = self.images.len() == 1;
        let docker = self.images.iter().map(|image| {
            let name = self.reference.rsplit_once(':').map_or(self.reference.as_str(), |(name, _)| name);
            json!({
                "Config": format!("blobs/sha256/{}", image.config_digest),
                "RepoTags": [if alone { self.reference.clone() } else { format!("{name}:{}", image.arch) }],
                "Layers": [format!("blobs/sha256/{}", image.layer_digest)],
            })
        });
        append(&mut tar, "manifest.json", &json_bytes(&docker.collect::<Vec<_>>())?)?;
        for (name, content) in &self.blobs {
            append(&mut tar, &format!("blobs/sha256/{name}"), content)?;
        }
        Ok(tar.into_inner()?)
    }

    fn blob(&mut self, media_type: MediaType, content: Vec<u8>) -> Result<Descriptor> {
        let name = digest(&content);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(Digest::from_str(&format!("sha256:{name}"))?)
            .size(content.len() as u64)
            .build()?;
        self.blobs.insert(name, content);
        Ok(descriptor)
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).with_context(|| format!("append {name}"))
}

/// JSON with sorted keys: the spec's own types keep labels in an order that changes from run to run.
fn json_bytes(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample() -> Vec<u8> {
        let mut layer = Layer::default();
        layer.file("hello", 0o644, "hello");
        let labels = (0..8).map(|n| (format!("label{n}"), n.to_string())).collect();
        let how = Behaviour { user: "65535:65535", env: vec![PATH.into()], labels, ..Behaviour::default() };
        let mut archive = Archive::new("paperboat.test/hello:v1");
        archive.image(Arch::PowerPC64le, &layer, &how).unwrap();
        archive.finish().unwrap()
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect()
    }

    #[test]
    fn every_descriptor_finds_its_blob() {
        let files = files(&sample());
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let top = &index["manifests"][0];
        assert_eq!(top["annotations"]["io.containerd.image.name"], "paperboat.test/hello:v1");
        assert_eq!(top["platform"]["architecture"], "ppc64le");
        let blob = |descriptor: &serde_json::Value| {
            let name = descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
            let content = &files[&name];
            assert_eq!(content.len() as u64, descriptor["size"].as_u64().unwrap());
            content.clone()
        };
        let manifest: serde_json::Value = serde_json::from_slice(&blob(top)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["architecture"], "ppc64le");
        assert_eq!(config["config"]["User"], "65535:65535");
        let mut tar = Vec::new();
        let layer = blob(&manifest["layers"][0]);
        flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(&tar)));
    }

    #[test]
    fn docker_finds_every_image() {
        let mut layer = Layer::default();
        layer.file("hello", 0o644, "hello");
        let mut archive = Archive::new("paperboat.test/both:latest");
        archive.image(Arch::Amd64, &layer, &Behaviour::default()).unwrap();
        archive.image(Arch::PowerPC64le, &layer, &Behaviour::default()).unwrap();
        let files = files(&archive.finish().unwrap());
        let images: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let tags: Vec<_> = images.as_array().unwrap().iter().map(|image| image["RepoTags"][0].as_str().unwrap()).collect();
        assert_eq!(tags, ["paperboat.test/both:amd64", "paperboat.test/both:ppc64le"]);
        for image in images.as_array().unwrap() {
            assert!(files.contains_key(image["Config"].as_str().unwrap()));
            assert!(files.contains_key(image["Layers"][0].as_str().unwrap()));
        }
    }

    #[test]
    fn same_image_same_bytes() {
        assert_eq!(sample(), sample());
    }
}
