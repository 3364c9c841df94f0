"""What all pages have in common."""
from core_jax.page import page


def test_a_page_is_as_wide_as_the_screen_and_says_what_it_is():
    shown = page("a < b", "<h1>x</h1>", "td{color:red}").decode()
    assert "<title>a &lt; b</title>" in shown and "td{color:red}</style><h1>x</h1></html>" in shown
    assert '<meta name="viewport" content="width=device-width">' in shown, "else a phone draws it 980 pixels wide"
