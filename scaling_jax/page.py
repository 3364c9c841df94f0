"""One HTML page of charts that answers to the mouse: hover to read a point, click a name to hide its series. Needs no network."""
import dataclasses
import html
import json

from core_jax.page import page
from scaling_jax.charts import Chart
from scaling_jax.results import rounded

STYLE = """body{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(500px,100%),1fr));gap:24px;max-width:1900px}h1{grid-column:1/-1;margin:0}
figcaption{font-size:15px;font-weight:600}svg{width:100%}path{pointer-events:none}
.key button{all:unset;cursor:pointer;margin-right:12px}.key button::before{content:"● ";color:var(--dot)}.key button:focus-visible{outline:2px solid}.off{opacity:.3}
#tip{position:fixed;background:#fff;border:1px solid #888;padding:3px 6px;pointer-events:none;display:none}"""
BODY = """<div id="tip"></div><script>
const charts=CHARTS, W=620, H=400, L=70, B=45, R=36, T=10, tip=document.getElementById("tip");
const short=v=>Math.abs(v)>=1e5||(v!==0&&Math.abs(v)<1e-2)?(+v.toPrecision(3)).toExponential():+v.toPrecision(4);
const svg=(name,attributes,parent)=>{const e=document.createElementNS("http://www.w3.org/2000/svg",name);
  for(const k in attributes)e.setAttribute(k,attributes[k]);parent.append(e);return e};
function ticks(a,b,log){const out=[];
  if(log){const of=b-a>7?[1]:b-a>2.5?[1,3]:[1,1.5,2,3,5,7];
    for(let p=Math.floor(a/Math.LN10);p*Math.LN10<=b;p++)for(const m of of){const v=m*10**p;if(Math.log(v)>=a&&Math.log(v)<=b)out.push(v)}
    return out}
  const raw=(b-a)/8,unit=10**Math.floor(Math.log10(raw)),step=[1,2,5,10].map(m=>m*unit).find(s=>s>=raw);
  for(let i=Math.ceil(a/step);i*step<=b;i++)out.push(i*step);
  return out}
function draw(chart,root){const hidden=new Set(),figure=document.createElement("figure");root.append(figure);
  const render=()=>{figure.innerHTML="";const caption=document.createElement("figcaption");caption.textContent=chart.title;figure.append(caption);
    const lx=Math.log,ly=chart.log_y?Math.log:v=>v,all=chart.series.filter(s=>!hidden.has(s.group));
    const xs=all.flatMap(s=>s.x).map(lx),ys=all.flatMap(s=>s.y).filter(v=>v!==null).map(ly);
    let [x0,x1,y0,y1]=[Math.min(...xs),Math.max(...xs),Math.min(...ys),Math.max(...ys)];const px=(x1-x0||1)*.03,py=(y1-y0||1)*.05;
    x0-=px;x1+=px;y0-=py;y1+=py;
    const X=v=>L+(lx(v)-x0)/(x1-x0)*(W-L-R),Y=v=>H-B-(ly(v)-y0)/(y1-y0)*(H-B-T),s=svg("svg",{viewBox:`0 0 ${W} ${H}`,role:"img","aria-label":chart.title},figure);
    for(const v of ticks(x0,x1,true)){svg("line",{x1:X(v),x2:X(v),y1:T,y2:H-B,stroke:"#eee"},s);
      svg("text",{x:X(v),y:H-B+16,"text-anchor":"middle","font-size":11},s).textContent=short(v)}
    for(const v of ticks(y0,y1,chart.log_y)){svg("line",{x1:L,x2:W-R,y1:Y(v),y2:Y(v),stroke:"#eee"},s);
      svg("text",{x:L-5,y:Y(v)+4,"text-anchor":"end","font-size":11},s).textContent=short(v)}
    svg("text",{x:(L+W)/2,y:H-8,"text-anchor":"middle","font-size":12},s).textContent=chart.x;
    svg("text",{x:14,y:(H-B)/2,"text-anchor":"middle","font-size":12,transform:`rotate(-90 14 ${(H-B)/2})`},s).textContent=chart.y;
    const clip="c"+Math.random().toString(36).slice(2);
    svg("rect",{x:L,y:T,width:W-L-R,height:H-B-T},svg("clipPath",{id:clip},s));const plot=svg("g",{"clip-path":`url(#${clip})`},s);
    for(const one of all){const colour=chart.colours[one.group],path=v=>v.map((p,i)=>(i?"L":"M")+X(p[0])+","+Y(p[1])).join("");
      const pairs=one.x.map((x,i)=>[x,one.y[i]]).filter(p=>p[1]!==null);
      if(one.low){const up=one.x.map((x,i)=>[x,one.high[i]]),down=one.x.map((x,i)=>[x,one.low[i]]).reverse();
        svg("path",{d:path([...up,...down])+"Z",fill:colour,opacity:.15},plot)}
      if(one.line)svg("path",{d:path(pairs),fill:"none",stroke:colour,"stroke-width":1.5},plot);
      else for(const p of pairs){const dot=svg("circle",{cx:X(p[0]),cy:Y(p[1]),r:4,fill:colour,opacity:.8},plot);
        dot.onmousemove=e=>{tip.style.display="block";tip.style.left=e.clientX+12+"px";tip.style.top=e.clientY+12+"px";
          tip.textContent=`${one.name}: ${chart.x} ${short(p[0])}, ${chart.y} ${short(p[1])}`};dot.onmouseleave=()=>tip.style.display="none"}}
    const key=document.createElement("div");key.className="key";figure.append(key);const named=new Set();
    for(const one of chart.series){if(named.has(one.group))continue;named.add(one.group);const name=document.createElement("button");
      name.textContent=one.name;name.style.setProperty("--dot",chart.colours[one.group]);if(hidden.has(one.group))name.className="off";
      const at=named.size-1;
      name.onclick=()=>{const rest=[...named].filter(g=>!hidden.has(g));if(hidden.has(one.group))hidden.delete(one.group);
        else if(rest.length>1)hidden.add(one.group);
        render();figure.querySelectorAll("button")[at].focus()};key.append(name)}};render()}
for(const chart of charts)draw(chart,document.body);
</script>
"""


def figures(charts: list[Chart], title: str) -> bytes:
    """The page, its data inside."""
    data = json.dumps([rounded(dataclasses.asdict(chart)) | {"colours": chart.colours()} for chart in charts]).replace("</", "<\\/")
    return page(title, f"<h1>{html.escape(title)}</h1>" + BODY.replace("CHARTS", data, 1), STYLE)
