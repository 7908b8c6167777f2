//! What each module of a crate names of the others: every `crate::`, `super::` and `self::` path, in
//! an import, the code, or the arguments of a macro or an attribute. Tests are left out: they may
//! look anywhere.
//!
//! A path stands for the module it leads to: what a folder's `mod.rs` hands on is the folder's.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, Macro, UseTree};

/// A module's place: the crate's name, and those of the modules down to it.
pub(crate) type Module = Vec<String>;

/// One module names another.
#[derive(Clone)]
pub(crate) struct Import {
    pub(crate) from: Module,
    pub(crate) to: Module,
    /// the file and the line
    pub(crate) at: String,
}

/// All that the modules of the crate with this root name of each other.
pub(crate) fn of(name: &str, root: &Path) -> Result<Vec<Import>, Box<dyn Error>> {
    let folder = root.parent().ok_or("a root has a folder")?;
    let mut sources = Sources::default();
    sources.read(vec![name.to_owned()], root, folder)?;
    let Sources { modules, files } = sources;
    let mut imports = Vec::new();
    for (module, (file, text)) in files {
        let mut reader = Reader { module, file, modules: &modules, imports: &mut imports };
        reader.visit_file(&text);
    }
    Ok(imports)
}

/// The files of a crate, and its modules: those written within a file too.
#[derive(Default)]
struct Sources {
    modules: BTreeSet<Module>,
    files: BTreeMap<Module, (PathBuf, syn::File)>,
}

impl Sources {
    /// Reads a module's file and those below it, which lie in `folder`.
    fn read(&mut self, module: Module, file: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
        let wrong = |error: &dyn Error| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
        let text = syn::parse_file(&text).map_err(|error| wrong(&error))?;
        self.below(&module, &text.items, folder)?;
        self.files.insert(module.clone(), (file.to_owned(), text));
        self.modules.insert(module);
        Ok(())
    }

    fn below(
        &mut self,
        module: &Module,
        items: &[Item],
        folder: &Path,
    ) -> Result<(), Box<dyn Error>> {
        for item in items {
            let Item::Mod(item) = item else { continue };
            if only_in_tests(&item.attrs) {
                continue;
            }
            let name = item.ident.to_string();
            let child = [module.as_slice(), std::slice::from_ref(&name)].concat();
            let within = folder.join(&name);
            if let Some((_, items)) = &item.content {
                self.below(&child, items, &within)?;
                self.modules.insert(child);
                continue;
            }
            let beside = folder.join(format!("{name}.rs"));
            let file = if beside.exists() { beside } else { within.join("mod.rs") };
            self.read(child, &file, &within)?;
        }
        Ok(())
    }
}

/// Whether this is `#[cfg(test)]` or a `#[test]`.
fn only_in_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|what| what.is_ident("test"))
    })
}

struct Reader<'a> {
    module: Module,
    file: PathBuf,
    modules: &'a BTreeSet<Module>,
    imports: &'a mut Vec<Import>,
}

impl Reader<'_> {
    /// Notes a path, where it starts at a place in this crate.
    fn note(&mut self, path: &[String], at: proc_macro2::Span) {
        let mut rest = path.iter().peekable();
        let mut to = self.module.clone();
        match rest.peek().map(|first| first.as_str()) {
            Some("crate") => to.truncate(1),
            Some("self" | "super") => {}
            Some(_) | None => return,
        }
        for name in rest {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(to.pop()),
                _ => {
                    to.push(name.clone());
                    if !self.modules.contains(&to) {
                        to.pop();
                        break;
                    }
                }
            }
        }
        let at = format!("{}:{}", self.file.display(), at.start().line);
        self.imports.push(Import { from: self.module.clone(), to, at });
    }

    fn note_use(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(tree) => self.note_use(&with(&tree.ident), &tree.tree),
            UseTree::Group(tree) => tree.items.iter().for_each(|tree| self.note_use(before, tree)),
            UseTree::Name(tree) => self.note(&with(&tree.ident), tree.ident.span()),
            UseTree::Rename(tree) => self.note(&with(&tree.ident), tree.ident.span()),
            UseTree::Glob(tree) => self.note(before, tree.star_token.spans[0]),
        }
    }

    /// Notes the paths in the arguments of a macro or an attribute, no code until it has run.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        path.clear();
                    }
                    colons = 0;
                    path.push(name.to_string());
                    self.note(&path, name.span());
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    path.clear();
                    self.note_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => path.clear(),
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open")]
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Const(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !only_in_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_in_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.note(&names, path.segments[0].ident.span());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.note_tokens(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.note_tokens(list.tokens.clone());
    }
}
