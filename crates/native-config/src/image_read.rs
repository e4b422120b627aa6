//! The images of a definition.

use crate::label_read::{LabelReader, unknown_disk_hint};
use crate::reader::{Field, Fields, Known};
use crate::tree::Yaml;
use crate::{DiskName, Image};
use url::Url;

pub(crate) const IMAGE: Known<'static> = Known {
    fields: &["url", "sum", "name", "version", "tag"],
    ignored: &[],
    instead: &[
        ("checksum", "did you mean `sum`?"),
        ("sha256", "write `sum: sha256:...`"),
        ("disk", "did you mean `tag`?"),
    ],
};

impl LabelReader<'_> {
    /// The newer shape has images in the definition, the older one under options.
    pub(crate) fn images(&mut self, fields: &Fields<'_>, options: Option<&Fields<'_>>, disks: &[String]) -> Vec<Image> {
        let newer = fields.get("images");
        let older = options.and_then(|options| options.get("images"));
        let field = match (newer, older) {
            (Some(newer), Some(older)) => {
                let message = format!("images are given twice, also at line {}", newer.pos().line);
                let hint = "keep `images` in the definition (the newer shape) and remove it from `options`";
                self.reader.error(older.pos(), &older.path, message, Some(hint));
                newer
            }
            (Some(field), None) | (None, Some(field)) => field,
            (None, None) => return Vec::new(),
        };
        let Some(items) = self.reader.list(&field, Some("each image begins with `- url:`")) else { return Vec::new() };
        items.iter().filter_map(|item| self.image(item, disks)).collect()
    }

    fn image(&mut self, item: &Field<'_>, disks: &[String]) -> Option<Image> {
        let hint = matches!(item.node.value, Yaml::Str(_)).then_some("write `- url: ...`");
        let fields = self.reader.mapping(item, hint)?;
        self.reader.unknown(&fields, &IMAGE);
        let url = self.url(&fields);
        let sum: Option<crate::Checksum> = self.reader.parsed(fields.get("sum"), None);
        if let (Some(sum), Some(field)) = (&sum, fields.get("sum"))
            && sum.algo.is_weak()
        {
            let message = format!("{} is broken: others can make a different image with the same sum", sum.algo);
            self.reader.warn(field.pos(), &field.path, message, Some("use sha256 or sha512"));
        }
        let name = self.or_from_url(&fields, "name", url.as_ref(), crate::image_name);
        let version = self.or_from_url(&fields, "version", url.as_ref(), crate::image_version);
        let tag: Option<DiskName> = self.reader.parsed(fields.get("tag"), None);
        if let (Some(tag), Some(field)) = (&tag, fields.get("tag"))
            && !disks.iter().any(|disk| disk == tag.as_str())
        {
            let hint = unknown_disk_hint(tag.as_str(), disks.iter().map(String::as_str));
            self.reader.error(
                field.pos(),
                &field.path,
                format!("there is no disk {tag:?}", tag = tag.as_str()),
                Some(&hint),
            );
        }
        Some(Image { url: url?, sum, name: name?, version: version?, tag })
    }

    fn url(&mut self, fields: &Fields<'_>) -> Option<Url> {
        let Some(field) = fields.get("url") else {
            self.reader.missing(fields, "url", "write `url: https://...`");
            return None;
        };
        let text = self.reader.text(&field)?;
        let url = match Url::parse(&text) {
            Ok(url) => url,
            Err(error) => {
                let message = format!("not a url: {error}");
                self.reader.error(
                    field.pos(),
                    &field.path,
                    message,
                    Some("write it as `https://host/path/name-version.tar.xz`"),
                );
                return None;
            }
        };
        if !matches!(url.scheme(), "http" | "https") {
            let message = format!("the scheme is `{}`, expected http or https", crate::names::shorten(url.scheme()));
            self.reader.error(field.pos(), &field.path, message, None);
            return None;
        }
        if !url.username().is_empty() || url.password().is_some() {
            let hint = "use `download_user` and `download_password` of the driver's config";
            self.reader.warn(field.pos(), &field.path, "credentials in a url can be read by everybody", Some(hint));
        }
        Some(url)
    }

    /// A name as given, or else out of the url.
    fn or_from_url<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        url: Option<&Url>,
        from_url: fn(&Url) -> Result<T, crate::ImageNameError>,
    ) -> Option<T>
    where
        T: std::str::FromStr<Err = crate::NameError>,
    {
        if let Some(field) = fields.get(key) {
            let text = self.reader.text(&field)?;
            if !text.is_empty() {
                return self.reader.parse_text(&field, &text, None);
            }
        }
        match from_url(url?) {
            Ok(value) => Some(value),
            Err(error) => {
                let pos = fields.get("url").map_or(fields.pos, |field| field.pos());
                let hint = format!("give the image's `{key}`");
                self.reader.error(pos, &fields.path_of(key), error, Some(&hint));
                None
            }
        }
    }
}
