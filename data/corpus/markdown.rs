//! Markdown to prose: its paragraphs, without code blocks, headings, tables, images and link targets.

use std::borrow::Cow;

use pulldown_cmark::{BrokenLink, CowStr, Event, Options, Parser, Tag, TagEnd};

/// The paragraphs and list items, each on one line; inline code keeps its text.
pub(super) fn paragraphs(markdown: &str) -> Vec<String> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_STRIKETHROUGH;
    let links = |link: BrokenLink<'_>| {
        is_path(&link.reference).then_some((CowStr::Borrowed(""), CowStr::Borrowed("")))
    };
    let parser = Parser::new_with_broken_link_callback(markdown, options, Some(links));
    let (mut found, mut text, mut skipped) = (Vec::new(), String::new(), 0usize);
    for event in parser {
        match event {
            Event::Start(tag) if is_skipped(&tag) => skipped += 1,
            Event::End(tag) if is_skipped_end(&tag) => skipped = skipped.saturating_sub(1),
            // a list within an item begins new paragraphs
            Event::Start(Tag::Paragraph | Tag::Item | Tag::List(_))
            | Event::End(TagEnd::Paragraph | TagEnd::Item) => {
                finish(&mut text, &mut found);
            }
            _ if skipped > 0 => {}
            Event::Text(part) | Event::Code(part) => text.push_str(&part),
            Event::SoftBreak | Event::HardBreak => text.push(' '),
            _ => {}
        }
    }
    finish(&mut text, &mut found);
    found
}

fn finish(text: &mut String, found: &mut Vec<String>) {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.clear();
    if !line.is_empty() {
        found.push(line);
    }
}

/// Whether a reference without a definition is a link to an item, as rustdoc resolves them, and not mere brackets.
fn is_path(reference: &str) -> bool {
    let name: Cow<'_, str> = reference.trim_matches('`').into();
    let mut characters = name.chars();
    let capital = characters.next().is_some_and(char::is_uppercase) && name.len() > 1;
    reference.starts_with('`')
        || name.contains("::")
        || (capital && characters.all(|c| c.is_alphanumeric() || c == '_'))
}

fn is_skipped(tag: &Tag<'_>) -> bool {
    matches!(
        tag,
        Tag::CodeBlock(_)
            | Tag::Heading { .. }
            | Tag::Table(_)
            | Tag::Image { .. }
            | Tag::HtmlBlock
            | Tag::FootnoteDefinition(_)
            | Tag::MetadataBlock(_)
    )
}

fn is_skipped_end(tag: &TagEnd) -> bool {
    matches!(
        tag,
        TagEnd::CodeBlock
            | TagEnd::Heading(_)
            | TagEnd::Table
            | TagEnd::Image
            | TagEnd::HtmlBlock
            | TagEnd::FootnoteDefinition
            | TagEnd::MetadataBlock(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_stays_and_the_rest_goes() {
        let markdown = "# Title\n\nReturns the *first* [`Vec`] of [items](https://x.y), see [Option::map].\nSame line.\n\n\
                        ```rust\nlet x = 1;\n```\n\n    indented code\n\n| a | b |\n|---|---|\n| c | d |\n\n\
                        - One `item`\n- Two\n  - Nested\n\n![image](x.png)\n\n<b>bold</b> in the range [0, 1) of `a[i]` or x[i].\n\n\
                        [items]: https://z\n";
        assert_eq!(
            paragraphs(markdown),
            [
                "Returns the first Vec of items, see Option::map. Same line.",
                "One item",
                "Two",
                "Nested",
                "bold in the range [0, 1) of a[i] or x[i].",
            ]
        );
    }
}
