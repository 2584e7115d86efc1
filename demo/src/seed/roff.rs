//! Manual pages (man and mdoc macros) to plain paragraphs.
//!
//! Not a typesetter: macros that begin a paragraph or a section cut the text, fonts and spacing are removed,
//! tables, conditionals and macro definitions are left out. What comes out is what a person would read.

/// Paragraphs shorter than this many characters are joined to the next one.
const SHORTEST: usize = 40;
/// Longer paragraphs are cut at a space; about the size that a RAG chunker makes.
const LONGEST: usize = 1500;

/// The paragraphs of a page, in order; empty for a page that only includes another (`.so`).
#[must_use]
pub fn paragraphs(page: &str) -> Vec<String> {
    let mut reader = Reader::default();
    for line in page.lines() {
        reader.line(line);
    }
    reader.cut();
    reader.finished
}

#[derive(Default)]
struct Reader {
    finished: Vec<String>,
    current: String,
    /// The macro or request whose end is awaited; everything until then is left out.
    skip_until: Option<&'static str>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(end) = self.skip_until {
            if line.trim_end() == end {
                self.skip_until = None;
            }
            return;
        }
        match line.strip_prefix(['.', '\'']) {
            Some(request) => self.request(request.trim_start()),
            None if line.trim().is_empty() => self.cut(),
            None => self.text(line),
        }
    }

    fn request(&mut self, request: &str) {
        let (name, rest) = request.split_once(char::is_whitespace).unwrap_or((request, ""));
        match name {
            "TS" => self.skip_until = Some(".TE"),
            "EQ" => self.skip_until = Some(".EN"),
            "de" | "de1" | "ig" | "am" => self.skip_until = Some(".."),
            // Headings belong to the text that follows them.
            "SH" | "SS" | "Sh" | "Ss" => {
                self.cut();
                self.arguments(rest);
                if !self.current.is_empty() {
                    self.current.push(':');
                }
            }
            "PP" | "P" | "LP" | "IP" | "TP" | "HP" | "TQ" | "Pp" | "It" | "sp" | "RS" | "RE" | "bp" => {
                self.cut();
                if matches!(name, "It" | "IP") {
                    self.arguments(rest);
                }
            }
            "B" | "I" | "R" | "SM" | "SB" | "BI" | "BR" | "IB" | "IR" | "RB" | "RI" | "MR" | "UR" | "MT"
            | "Nm" | "Nd" | "Fl" | "Ar" | "Pa" | "Xr" | "Fn" | "Fa" | "Va" | "Vt" | "Ev" | "Er" | "Dv"
            | "Em" | "Sy" | "Ql" | "Dq" | "Sq" | "Li" | "Cm" | "Ic" | "Op" | "Aq" | "Pq" | "Qq" | "Tn"
            | "No" | "Bq" => self.arguments(rest),
            // Titles, comments, registers, conditionals, includes and everything unknown.
            _ => {}
        }
    }

    /// The arguments of a font macro: `BR` and its like set them without spaces between.
    fn arguments(&mut self, rest: &str) {
        let mut joined = String::new();
        let mut quoted = false;
        for c in rest.chars() {
            match c {
                '"' => quoted = !quoted,
                c => joined.push(c),
            }
        }
        self.text(joined.trim());
    }

    fn text(&mut self, line: &str) {
        let clean = unescape(line);
        let clean = clean.trim();
        if clean.is_empty() {
            return;
        }
        if !self.current.is_empty() {
            self.current.push(' ');
        }
        for (at, word) in clean.split_whitespace().enumerate() {
            if at > 0 {
                self.current.push(' ');
            }
            self.current.push_str(word);
        }
    }

    /// Ends the paragraph, unless it is too short to stand alone.
    fn cut(&mut self) {
        if self.current.chars().count() < SHORTEST {
            return;
        }
        let mut rest = std::mem::take(&mut self.current);
        while let Some(at) = border(&rest) {
            let tail = rest.split_off(at);
            self.finished.push(rest.trim().to_owned());
            rest = tail;
        }
        self.finished.push(rest.trim().to_owned());
    }
}

/// Where to cut a paragraph that is too long: the last space before [`LONGEST`] characters.
fn border(text: &str) -> Option<usize> {
    let (limit, _) = text.char_indices().nth(LONGEST)?;
    // Without a space the whole is one word: left as it is.
    text[..limit].rfind(' ').filter(|at| *at > 0)
}

/// Removes roff's escapes.
fn unescape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            None | Some('"' | '#') => break,
            Some('-') => out.push('-'),
            Some('e' | '\\') => out.push('\\'),
            Some(' ' | '~' | '0' | 't') => out.push(' '),
            Some('\'') => out.push('\''),
            Some('`') => out.push('`'),
            Some('.') => out.push('.'),
            Some('(') => glyph(&rest.by_ref().take(2).collect::<String>(), &mut out),
            Some('[') => glyph(&rest.by_ref().take_while(|c| *c != ']').collect::<String>(), &mut out),
            Some('*' | 'f' | 'n' | 'F' | 'm' | 'M' | 'k' | 'g') => skip_name(&mut rest),
            Some('s') => skip_size(&mut rest),
            Some('h' | 'v' | 'w' | 'o' | 'D' | 'l' | 'L' | 'z' | 'X' | 'S' | 'H') => skip_quoted(&mut rest),
            // \& \/ \, \| \^ \: \% \c \p and unknown ones print nothing.
            Some(_) => {}
        }
    }
    out
}

fn skip_name(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('(') => rest.by_ref().take(2).for_each(drop),
        Some('[') => rest.by_ref().take_while(|c| *c != ']').for_each(drop),
        _ => {}
    }
}

fn skip_size(rest: &mut std::str::Chars<'_>) {
    let first = rest.next();
    if matches!(first, Some('+' | '-')) {
        rest.next();
    }
}

fn skip_quoted(rest: &mut std::str::Chars<'_>) {
    if rest.clone().next() == Some('\'') {
        rest.next();
        rest.by_ref().take_while(|c| *c != '\'').for_each(drop);
    }
}

fn glyph(name: &str, out: &mut String) {
    let text = match name {
        "em" => "—",
        "en" => "–",
        "bu" => "•",
        "co" => "©",
        "rg" => "®",
        "aq" | "cq" => "'",
        "oq" => "‘",
        "dq" => "\"",
        "lq" => "“",
        "rq" => "”",
        "Fo" => "«",
        "Fc" => "»",
        "ti" | "a~" => "~",
        "ha" | "a^" => "^",
        "rs" => "\\",
        "hy" => "-",
        "mc" => "µ",
        "<=" => "≤",
        ">=" => "≥",
        "!=" => "≠",
        "->" => "→",
        "+-" => "±",
        "mu" => "×",
        "ga" => "`",
        "at" => "@",
        "sh" => "#",
        "Do" => "$",
        "bv" | "ba" | "or" => "|",
        "sq" => "□",
        ":a" => "ä",
        ":o" => "ö",
        ":u" => "ü",
        ":A" => "Ä",
        ":O" => "Ö",
        ":U" => "Ü",
        "ss" => "ß",
        "'e" => "é",
        "`e" => "è",
        "`a" => "à",
        "^e" => "ê",
        ",c" => "ç",
        "~n" => "ñ",
        other => {
            if let Some(c) = other
                .strip_prefix('u')
                .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                .and_then(char::from_u32)
            {
                out.push(c);
            }
            return;
        }
    };
    out.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::paragraphs;

    #[test]
    fn reads_a_page_as_a_person_would() {
        let page = ".\\\" comment\n.TH OPEN 2\n.SH NOM\nopen \\- ouvrir ou créer un fichier, éventuellement\n.SH DESCRIPTION\nL'appel système\n.BR open ()\nouvre le fichier indiqué par \\fIpathname\\fP\\&.\n.PP\n.TS\nl l.\nnot text\n.TE\nLa valeur renvoyée est un descripteur de fichier \\(em un petit entier.\n";
        assert_eq!(
            paragraphs(page),
            [
                "NOM: open - ouvrir ou créer un fichier, éventuellement",
                "DESCRIPTION: L'appel système open () ouvre le fichier indiqué par pathname.",
                "La valeur renvoyée est un descripteur de fichier — un petit entier.",
            ]
        );
    }

    #[test]
    fn a_page_that_includes_another_has_no_paragraph() {
        assert!(paragraphs(".so man2/open.2\n").is_empty());
    }

    #[test]
    fn cuts_long_paragraphs_at_a_space_and_loses_no_word() {
        let long = "déjà vu ".repeat(1000);
        let cut = paragraphs(&long);
        assert!(cut.len() > 4 && cut.iter().all(|text| text.chars().count() <= 1500));
        assert_eq!(cut.join(" "), long.trim());
    }
}
