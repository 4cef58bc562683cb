package notification

// Documents of the block editor, node by node, and what is refused of them.

import (
	"strings"
	"testing"
)

func TestBlocksHTML(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ nodes, want string }{
		{`{"type":"paragraph","attrs":{"textAlign":"center","showIfKey":null},"content":[{"type":"text","text":"A & B <{{payload.x | default: \"y\"}}>"},{"type":"hardBreak"},{"type":"text","text":"c"}]}`,
			`<p style="text-align:center">A &amp; B &lt;{{payload.x | default: "y"}}&gt;<br>c</p>`},
		{`{"type":"heading","attrs":{"level":2},"content":[{"type":"text","text":"T"}]},{"type":"heading"}`, `<h2>T</h2><h1></h1>`},
		{`{"type":"paragraph","content":[{"type":"text","text":"t","marks":[{"type":"bold"},{"type":"italic"},{"type":"link","attrs":{"href":"https://example.com/?a=1&b={{payload.b}}"}},
			{"type":"textStyle","attrs":{"color":"rgb(1, 2, 3)"}}]},{"type":"text","text":"u","marks":[{"type":"textStyle","attrs":{"color":"red\";x:y"}}]}]}`,
			`<p><strong><em><a href="https://example.com/?a=1&amp;b={{payload.b}}"><span style="color:rgb(1, 2, 3)">t</span></a></em></strong>u</p>`},
		{`{"type":"text","text":"l","marks":[{"type":"link","attrs":{"href":"payload.url","isUrlVariable":true}}]}`, `<a href="{{ payload.url }}">l</a>`},
		{`{"type":"variable","attrs":{"id":"payload.name","fallback":"you"}},{"type":"variable","attrs":{"id":"{{subscriber.firstName | upcase}}"}}`,
			`{{ payload.name | default: "you" }}{{ subscriber.firstName | upcase }}`},
		{`{"type":"bulletList","content":[{"type":"listItem","content":[{"type":"paragraph","content":[{"type":"text","text":"a"}]}]}]},{"type":"orderedList","content":[{"type":"listItem"}]}`,
			`<ul><li><p>a</p></li></ul><ol><li></li></ol>`},
		{`{"type":"horizontalRule"},{"type":"spacer","attrs":{"height":"lg"}},{"type":"spacer","attrs":{"height":24}},{"type":"spacer"}`,
			`<hr><div style="height:32px">&nbsp;</div><div style="height:24px">&nbsp;</div><div style="height:8px">&nbsp;</div>`},
		{`{"type":"image","attrs":{"src":"https://example.com/a.png","alt":"\"a\"","width":"100.4","height":50,"alignment":"right","externalLink":"payload.to","isExternalLinkVariable":true}}`,
			`<p style="text-align:right"><a href="{{ payload.to }}"><img src="https://example.com/a.png" alt="&#34;a&#34;" width="100" height="50"></a></p>`},
		{`{"type":"inlineImage","attrs":{"src":"payload.pic","isSrcVariable":true}},{"type":"image","attrs":{"src":""}}`, `<img src="{{ payload.pic }}" alt="">`},
		{`{"type":"button","attrs":{"text":"Go <now>","url":"https://example.com","alignment":"left","variant":"filled","borderRadius":"smooth","buttonColor":"#123456","textColor":"#fff"}}`,
			`<p style="text-align:left"><a href="https://example.com" style="display:inline-block;padding:10px 20px;text-decoration:none;background-color:#123456;color:#fff;border-radius:6px">Go &lt;now&gt;</a></p>`},
		{`{"type":"button","attrs":{"text":"payload.label","isTextVariable":true,"url":"payload.url","isUrlVariable":true,"variant":"outline","showIfKey":"payload.show"}}`,
			`{% if payload.show %}<p><a href="{{ payload.url }}" style="display:inline-block;padding:10px 20px;text-decoration:none;border:2px solid #000000;color:#000000">{{ payload.label }}</a></p>{% endif %}`},
		{`{"type":"columns","content":[{"type":"column","attrs":{"width":"auto","verticalAlign":"middle"},"content":[{"type":"text","text":"a"}]},{"type":"column","attrs":{"width":30}}]}`,
			`<table role="presentation" width="100%"><tr><td style="vertical-align:middle">a</td><td width="30%" style="vertical-align:top"></td></tr></table>`},
		{`{"type":"section","attrs":{"backgroundColor":"#eee","align":"left","borderWidth":2,"borderColor":"#ccc","borderRadius":0,"paddingTop":5,"marginLeft":"4"},"content":[{"type":"text","text":"s"}]}`,
			`<div style="background-color:#eee;text-align:left;border:2px solid #ccc;padding-top:5px;margin-left:4px">s</div>`},
		{`{"type":"repeat","attrs":{"each":"payload.items","iterations":2},"content":[{"type":"variable","attrs":{"id":"payload.items.name"}},{"type":"variable","attrs":{"id":"current.price"}},
			{"type":"repeat","attrs":{"each":"payload.items.parts"},"content":[{"type":"variable","attrs":{"id":"payload.items.parts.id"}}]}]}`,
			`{% for current in payload.items limit: 2 %}{{ current.name }}{{ current.price }}{% for current in current.parts %}{{ current.id }}{% endfor %}{% endfor %}`},
	} {
		got, found, err := BlocksHTML(` {"type":"doc","content":[` + c.nodes + `]}`)
		if err != nil || !found || got != c.want {
			t.Errorf("%s:\n%s, %v, want\n%s", c.nodes, got, err, c.want)
		}
	}
	deep := strings.Repeat(`{"type":"section","content":[`, 60) + strings.Repeat(`]}`, 60)
	for nodes, want := range map[string]string{
		`{"type":"video"}`: `type "video" is not rendered here: use button, columns`,
		`{"type":"text","text":"x","marks":[{"type":"blink"}]}`:                                          `mark of type "blink"`,
		`{"type":"variable","attrs":{"id":""}}`:                                                          "no name of a variable",
		`{"type":"variable","attrs":{"id":"a }} {% b"}}`:                                                 "no name of a variable",
		`{"type":"variable","attrs":{"id":"a","fallback":"\"'"}}`:                                        "one kind of quotes",
		`{"type":"button","attrs":{"text":"x","url":"javascript:alert(1)"}}`:                             "can't be linked",
		`{"type":"text","text":"x","marks":[{"type":"link","attrs":{"href":"data:text/html,x"}}]}`:       "can't be linked",
		`{"type":"columns","content":[{"type":"paragraph"}]}`:                                            "type column",
		`{"type":"paragraph","content":[{"type":"section","content":[{"type":"repeat","content":[]}]}]}`: "no name of a variable",
		deep: "50 deep",
	} {
		if _, found, err := BlocksHTML(`{"type":"doc","content":[` + nodes + `]}`); !found || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", nodes, err, want)
		}
	}
	for _, other := range []string{"", "text", "{{ payload.x }}", `{"type":"other"}`, `{"type":"doc"`, `[]`} {
		if got, found, err := BlocksHTML(other); got != other || found || err != nil {
			t.Errorf("%s: %s, %v, %v", other, got, found, err)
		}
	}
}
