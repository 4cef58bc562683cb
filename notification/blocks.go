package notification

// E-mails and layouts that were made with Novu's block editor: a JSON document of
// nodes, which becomes HTML. The HTML is a Liquid template, as the texts in the
// document are.

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// node is one node of a document.
type node struct {
	Type    string         `json:"type"`
	Attrs   map[string]any `json:"attrs"`
	Content []node         `json:"content"`
	Text    string         `json:"text"`
	Marks   []node         `json:"marks"`
}

// maxBlocks is how deep a document's nodes may be.
const maxBlocks = 50

// Blocks gives an e-mail's content with the document of the block editor in its body,
// if there is one, as HTML.
func Blocks(controls map[string]any) (map[string]any, error) {
	name := "body"
	if controls[name] == nil {
		name = "content"
	}
	body, _ := controls[name].(string)
	if controls["editorType"] == "html" {
		return controls, nil
	}
	out, found, err := BlocksHTML(body)
	if err != nil || !found {
		return controls, err
	}
	controls = maps.Clone(controls)
	controls[name] = out
	return controls, nil
}

// BlocksHTML turns a document of the block editor into HTML; found is false for any
// other text.
func BlocksHTML(body string) (out string, found bool, err error) {
	if !strings.HasPrefix(strings.TrimSpace(body), "{") {
		return body, false, nil
	}
	var doc node
	err = json.Unmarshal([]byte(body), &doc)
	if other := err != nil || doc.Type != "doc"; other {
		return body, false, nil
	}
	b := &blocks{}
	b.all(doc.Content, 0)
	if b.err != nil {
		return "", true, fmt.Errorf("blocks: %w", b.err)
	}
	return b.out.String(), true, nil
}

// blocks writes a document's HTML.
type blocks struct {
	out   strings.Builder
	loops []string // what the repeats around here go through
	err   error    // the first
}

func (b *blocks) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
}

func (b *blocks) all(list []node, depth int) {
	if depth > maxBlocks {
		b.fail("nodes are more than %d deep", maxBlocks)
		return
	}
	for i := range list {
		if b.err != nil {
			return
		}
		b.node(&list[i], depth)
	}
}

// attr is an attribute as text; "" without one.
func (n *node) attr(name string) string {
	switch v := n.Attrs[name].(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return ""
	}
}

// around are the tags of nodes that hold others and nothing else of note.
var around = map[string]string{
	"paragraph": "p", "bulletList": "ul", "orderedList": "ol", "listItem": "li", "blockquote": "blockquote", "section": "div", "footer": "p", "codeBlock": "pre",
}

// alone are nodes that hold nothing.
var alone = []string{"button", "columns", "hardBreak", "heading", "horizontalRule", "image", "inlineImage", "logo", "repeat", "spacer", "text", "variable"}

func (b *blocks) node(n *node, depth int) {
	if key := n.attr("showIfKey"); key != "" {
		b.out.WriteString("{% if " + b.variable(key) + " %}")
		defer b.out.WriteString("{% endif %}")
	}
	inside := func() { b.all(n.Content, depth+1) }
	tag, style := around[n.Type], alignment(n.attr("textAlign"))
	switch n.Type {
	case "heading":
		level := n.attr("level")
		if !slices.Contains([]string{"1", "2", "3", "4", "5", "6"}, level) {
			level = "1"
		}
		tag = "h" + level
	case "section":
		style = n.box()
	case "text":
		b.text(n)
		return
	case "variable":
		b.out.WriteString("{{ " + b.variable(n.attr("id")) + b.fallback(n.attr("fallback")) + " }}")
		return
	case "hardBreak":
		b.out.WriteString("<br>")
		return
	case "horizontalRule":
		b.out.WriteString("<hr>")
		return
	case "spacer":
		fmt.Fprintf(&b.out, `<div style="height:%spx">&nbsp;</div>`, n.height())
		return
	case "button":
		b.button(n)
		return
	case "image", "inlineImage", "logo":
		b.image(n)
		return
	case "columns":
		b.columns(n, depth)
		return
	case "repeat", "for":
		b.repeat(n, inside)
		return
	}
	if tag == "" {
		known := slices.Sorted(maps.Keys(around))
		b.fail("a node of type %.40q is not rendered here: use %s, or HTML", n.Type, strings.Join(slices.Concat(alone, known), ", "))
		return
	}
	b.out.WriteString("<" + tag + styled(style) + ">")
	inside()
	b.out.WriteString("</" + tag + ">")
}

func styled(style string) string {
	if style == "" {
		return ""
	}
	return ` style="` + style + `"`
}

func alignment(side string) string {
	if slices.Contains([]string{"left", "center", "right", "justify"}, side) {
		return "text-align:" + side
	}
	return ""
}

var (
	cssValue = regexp.MustCompile(`^[#\w(),.% -]{1,60}$`)
	liquid   = regexp.MustCompile(`(?s)\{\{.*?\}\}|\{%.*?%\}`)
	pixels   = map[string]string{"xs": "4", "sm": "8", "md": "16", "lg": "32", "xl": "64"}
)

// css is an attribute as a value of a style; "" for what could be none.
func (n *node) css(name string) string {
	if v := n.attr(name); cssValue.MatchString(v) {
		return v
	}
	return ""
}

// height is a spacer's, in pixels.
func (n *node) height() string {
	h := n.attr("height")
	if p, ok := pixels[h]; ok {
		return p
	}
	if f, err := strconv.ParseFloat(h, 64); err == nil && f >= 0 && f <= 2000 {
		return h
	}
	return pixels["sm"]
}

// box is a section's style.
func (n *node) box() string {
	var style []string
	add := func(property, value string) {
		if value != "" && value != "0" {
			style = append(style, property+":"+value)
		}
	}
	px := func(name string) string {
		if f, err := strconv.ParseFloat(n.attr(name), 64); err == nil && f > 0 {
			return n.attr(name) + "px"
		}
		return ""
	}
	add("background-color", n.css("backgroundColor"))
	add("text-align", strings.TrimPrefix(alignment(n.attr("align")), "text-align:"))
	add("border-radius", px("borderRadius"))
	if width := px("borderWidth"); width != "" {
		add("border", strings.TrimSpace(width+" solid "+n.css("borderColor")))
	}
	for _, side := range []string{"Top", "Right", "Bottom", "Left"} {
		add("padding-"+strings.ToLower(side), px("padding"+side))
		add("margin-"+strings.ToLower(side), px("margin"+side))
	}
	return strings.Join(style, ";")
}

// escaped is a text for HTML; templates in it stay.
func escaped(text string) string {
	var out strings.Builder
	from := 0
	for _, at := range liquid.FindAllStringIndex(text, -1) {
		out.WriteString(html.EscapeString(text[from:at[0]]) + text[at[0]:at[1]])
		from = at[1]
	}
	return out.String() + html.EscapeString(text[from:])
}

// variable is the name of a variable, with filters where it has such, as a template's
// expression. Within a repeat the list that it goes through stands for its element.
func (b *blocks) variable(name string) string {
	name = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(name), "{{"), "}}"))
	if name == "" || strings.Contains(name, "{{") || strings.Contains(name, "}}") || strings.Contains(name, "{%") || strings.Contains(name, "%}") {
		b.fail("%.60q is no name of a variable: use such as payload.name", name)
		return "nil"
	}
	for _, list := range slices.Backward(b.loops) {
		if rest, ok := strings.CutPrefix(name, list+"."); ok {
			return "current." + rest
		}
	}
	return name
}

func (b *blocks) fallback(text string) string {
	if text == "" {
		return ""
	}
	quote := `"`
	if strings.Contains(text, quote) {
		quote = "'"
	}
	if strings.Contains(text, quote) || liquid.MatchString(text) || strings.Contains(text, "}}") {
		b.fail("the fallback %.60q can't be one: use text with one kind of quotes, and no template", text)
		return ""
	}
	return " | default: " + quote + text + quote
}

// value is an attribute that may name a variable instead.
func (b *blocks) value(n *node, name, flag string) string {
	v := n.attr(name)
	if is, _ := n.Attrs[flag].(bool); is && v != "" {
		return "{{ " + b.variable(v) + " }}"
	}
	return escaped(v)
}

// address is an attribute that is a URL.
func (b *blocks) address(n *node, name, flag string) string {
	v := b.value(n, name, flag)
	if v == "" || liquid.MatchString(v) {
		return v
	}
	u, err := url.Parse(n.attr(name))
	if err != nil || !slices.Contains([]string{"", "http", "https", "mailto", "tel", "cid"}, u.Scheme) {
		b.fail("%s %.60q of a %s can't be linked: use an http, https, mailto or tel address", name, n.attr(name), n.Type)
	}
	return v
}

var markTags = map[string]string{"bold": "strong", "italic": "em", "underline": "u", "strike": "s", "code": "code", "subscript": "sub", "superscript": "sup"}

func (b *blocks) text(n *node) {
	end := ""
	for i := range n.Marks {
		m := &n.Marks[i]
		switch tag := markTags[m.Type]; {
		case tag != "":
			b.out.WriteString("<" + tag + ">")
			end = "</" + tag + ">" + end
		case m.Type == "link":
			b.out.WriteString(`<a href="` + b.address(m, "href", "isUrlVariable") + `">`)
			end = "</a>" + end
		case m.Type == "textStyle" || m.Type == "highlight":
			property := map[string]string{"textStyle": "color", "highlight": "background-color"}[m.Type]
			if color := m.css("color"); color != "" {
				b.out.WriteString(`<span style="` + property + ":" + color + `">`)
				end = "</span>" + end
			}
		default:
			b.fail("a mark of type %.40q is not rendered here: use bold, italic, underline, strike, code, link or textStyle", m.Type)
		}
	}
	b.out.WriteString(escaped(n.Text) + end)
}

func (b *blocks) button(n *node) {
	color, text := n.css("buttonColor"), n.css("textColor")
	style := "display:inline-block;padding:10px 20px;text-decoration:none"
	if n.attr("variant") == "outline" {
		style += ";border:2px solid " + first(color, "#000000") + ";color:" + first(text, "#000000")
	} else {
		style += ";background-color:" + first(color, "#000000") + ";color:" + first(text, "#ffffff")
	}
	style += map[string]string{"round": ";border-radius:9999px", "smooth": ";border-radius:6px"}[n.attr("borderRadius")]
	fmt.Fprintf(&b.out, `<p%s><a href="%s" style="%s">%s</a></p>`,
		styled(alignment(n.attr("alignment"))), b.address(n, "url", "isUrlVariable"), style, b.value(n, "text", "isTextVariable"))
}

func (b *blocks) image(n *node) {
	src := b.address(n, "src", "isSrcVariable")
	if src == "" {
		return
	}
	var size strings.Builder
	for _, name := range []string{"width", "height"} {
		if f, err := strconv.ParseFloat(n.attr(name), 64); err == nil && f > 0 && f <= 10_000 {
			fmt.Fprintf(&size, ` %s="%.0f"`, name, f)
		}
	}
	tag := fmt.Sprintf(`<img src="%s" alt="%s"%s>`, src, escaped(n.attr("alt")), size.String())
	if link := b.address(n, "externalLink", "isExternalLinkVariable"); link != "" {
		tag = `<a href="` + link + `">` + tag + `</a>`
	}
	if n.Type == "inlineImage" {
		b.out.WriteString(tag)
		return
	}
	b.out.WriteString("<p" + styled(alignment(n.attr("alignment"))) + ">" + tag + "</p>")
}

// columns are a table: what all e-mail clients lay out.
func (b *blocks) columns(n *node, depth int) {
	b.out.WriteString(`<table role="presentation" width="100%"><tr>`)
	for i := range n.Content {
		column := &n.Content[i]
		if column.Type != "column" {
			b.fail("columns must hold nodes of type column, not %.40q", column.Type)
			return
		}
		style := "vertical-align:" + first(map[string]string{"middle": "middle", "bottom": "bottom"}[column.attr("verticalAlign")], "top")
		width := ""
		if f, err := strconv.ParseFloat(strings.TrimSuffix(column.attr("width"), "%"), 64); err == nil && f > 0 && f <= 100 {
			width = fmt.Sprintf(` width="%g%%"`, f)
		}
		b.out.WriteString("<td" + width + styled(style) + ">")
		b.all(column.Content, depth+2)
		b.out.WriteString("</td>")
	}
	b.out.WriteString("</tr></table>")
}

// repeat says its nodes for each element of a list.
func (b *blocks) repeat(n *node, inside func()) {
	each := b.variable(n.attr("each"))
	limit := ""
	if most, err := strconv.Atoi(n.attr("iterations")); err == nil && most > 0 {
		limit = " limit: " + strconv.Itoa(most)
	}
	b.out.WriteString("{% for current in " + each + limit + " %}")
	b.loops = append(b.loops, strings.TrimSpace(n.attr("each")))
	inside()
	b.loops = b.loops[:len(b.loops)-1]
	b.out.WriteString("{% endfor %}")
}

// errNoBlocks is for a body that calls itself blocks and is some other JSON.
var errNoBlocks = errors.New(`editorType is block, but the body is no document of the editor: send {"type":"doc","content":[…]} as text, or HTML`)

// CheckBlocks refuses a body that says it is the editor's and isn't.
func CheckBlocks(editorType, body string) error {
	_, found, err := BlocksHTML(body)
	if object := strings.HasPrefix(strings.TrimSpace(body), "{"); err == nil && !found && object && editorType == "block" && json.Valid([]byte(body)) {
		err = errNoBlocks
	}
	return err
}
