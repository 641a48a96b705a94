//! `paperboat top`: pods and what they use, live, with a console, a stop and a kill at hand.
//!
//! [`App`] is what is shown and what keys do to it; [`run`] joins it with terminal and machines.

use std::collections::HashMap;
use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use paperboat_protocol::machine::{ConsoleRequest, Empty};
use paperboat_shim::agent::Agent;
use paperboat_shim::config::Config;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use tokio::runtime::Runtime;
use ttrpc::context;

use crate::cli::{Cli, TopArguments};
use crate::failure::Failure;
use crate::pods::{self, Pod, View};
use crate::{ps, table};

/// Console lines fetched for a look.
const CONSOLE_LINES: u32 = 200;

/// How long a key is waited for before the screen is drawn again.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// A guest gets this long to power off when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What is on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Screen {
    Pods,
    /// A pod's console, its last lines.
    Console(String, Vec<String>),
    /// A question about a pod, to be answered by y.
    Confirm(Action, String),
}

/// What can be done to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Show its console.
    Console,
    /// Ask its guest to power off.
    Stop,
    /// End its machine at once.
    Kill,
}

/// What a key asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Do(Action, String),
}

/// The view's state.
struct App {
    views: Vec<View>,
    selected: usize,
    screen: Screen,
    message: String,
    /// CPU time at the last look, for the rates.
    before: HashMap<String, (Instant, u64)>,
}

fn key_of(view: &View) -> String {
    format!("{}/{}", view.namespace, view.id)
}

impl App {
    fn new() -> Self {
        Self { views: Vec::new(), selected: 0, screen: Screen::Pods, message: String::new(), before: HashMap::new() }
    }

    /// Takes a new look; CPU use becomes that since the last one. The selection stays on its pod.
    fn update(&mut self, mut views: Vec<View>, now: Instant) {
        let chosen = self.views.get(self.selected).map(key_of);
        let mut seen = HashMap::new();
        for view in &mut views {
            if let Some((then, cpu_time_ns)) = self.before.get(&key_of(view)) {
                let elapsed = now.duration_since(*then).as_nanos().max(1) as f64;
                view.cpu_percent = view.cpu_time_ns.saturating_sub(*cpu_time_ns) as f64 / elapsed * 100.0;
            }
            seen.insert(key_of(view), (now, view.cpu_time_ns));
        }
        self.before = seen;
        let place = chosen.and_then(|chosen| views.iter().position(|view| key_of(view) == chosen));
        self.selected = place.unwrap_or(self.selected).min(views.len().saturating_sub(1));
        self.views = views;
    }

    /// What a key does.
    fn key(&mut self, code: KeyCode) -> Wish {
        match (&self.screen, code) {
            (Screen::Confirm(action, pod), KeyCode::Char('y')) => {
                let wish = Wish::Do(*action, pod.clone());
                self.screen = Screen::Pods;
                return wish;
            }
            (Screen::Console(..) | Screen::Confirm(..), _) => self.screen = Screen::Pods,
            (Screen::Pods, KeyCode::Char('q') | KeyCode::Esc) => return Wish::Quit,
            (Screen::Pods, KeyCode::Down | KeyCode::Char('j')) => {
                self.selected = (self.selected + 1).min(self.views.len().saturating_sub(1));
            }
            (Screen::Pods, KeyCode::Up | KeyCode::Char('k')) => self.selected = self.selected.saturating_sub(1),
            (Screen::Pods, KeyCode::Char(letter)) => {
                let Some(pod) = self.views.get(self.selected).map(key_of) else { return Wish::Nothing };
                match letter {
                    'c' => return Wish::Do(Action::Console, pod),
                    's' => self.screen = Screen::Confirm(Action::Stop, pod),
                    'K' => self.screen = Screen::Confirm(Action::Kill, pod),
                    _ => {}
                }
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn draw(&self, frame: &mut Frame) {
        let [title, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let running = self.views.iter().filter(|view| view.state == "running").count();
        let memory = self.views.iter().map(|view| view.memory_resident_bytes).fold(0u64, u64::saturating_add);
        let cpu: f64 = self.views.iter().map(|view| view.cpu_percent).sum();
        let summary = format!("{} pods, {running} running, {} resident, {cpu:.1} % CPU", self.views.len(), table::bytes(memory));
        frame.render_widget(Line::styled(summary, Style::new().add_modifier(Modifier::BOLD)), title);
        match &self.screen {
            Screen::Console(pod, lines) => {
                let room = usize::from(body.height.saturating_sub(2));
                let shown =
                    lines[lines.len().saturating_sub(room)..].iter().map(|line| Line::raw(line.as_str())).collect::<Vec<_>>();
                frame.render_widget(Paragraph::new(shown).block(Block::bordered().title(format!("console of {pod}"))), body);
                frame.render_widget(Line::raw("any key: back"), foot);
            }
            Screen::Pods | Screen::Confirm(..) => {
                self.draw_pods(frame, body);
                let words = match &self.screen {
                    Screen::Confirm(Action::Stop, pod) => {
                        format!("ask the guest of {pod} to power off? y: yes, any other key: no")
                    }
                    Screen::Confirm(_, pod) => format!("kill the machine of {pod}? y: yes, any other key: no"),
                    _ if self.message.is_empty() => "up, down: choose   c: console   s: stop   K: kill   q: quit".to_owned(),
                    _ => self.message.clone(),
                };
                frame.render_widget(Line::raw(words), foot);
            }
        }
    }

    fn draw_pods(&self, frame: &mut Frame, area: ratatui::layout::Rect) {
        let rows: Vec<Vec<String>> = self.views.iter().map(ps::row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            let width = cells.chain([ps::COLUMNS[column].0.len()]).max().unwrap_or(0);
            Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
        };
        let widths: Vec<Constraint> = (0..ps::COLUMNS.len()).map(width).collect();
        let cell = |(text, (_, number)): (String, &table::Column)| {
            let line = Line::raw(text);
            Cell::from(if *number { line.right_aligned() } else { line })
        };
        let heading = Row::new(ps::COLUMNS.iter().map(|column| cell((column.0.to_owned(), column))));
        let rows = rows.into_iter().map(|row| Row::new(row.into_iter().zip(&ps::COLUMNS).map(cell)));
        let table = Table::new(rows, widths)
            .header(heading.style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected((!self.views.is_empty()).then_some(self.selected));
        frame.render_stateful_widget(table, area, &mut state);
    }
}

/// Draws and asks until the user leaves.
pub fn run(cli: &Cli, arguments: &TopArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    // Before the terminal is changed: a failure is to be read.
    pods::all(&config)?;
    let runtime = pods::runtime()?;
    let terminal_failed = |source| Failure::Io { what: "terminal", source };
    let mut terminal = ratatui::try_init().map_err(terminal_failed)?;
    let outcome = watch(&config, &runtime, Duration::from_secs_f64(arguments.interval), &mut terminal);
    ratatui::try_restore().map_err(terminal_failed)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

fn watch(config: &Config, runtime: &Runtime, interval: Duration, terminal: &mut ratatui::DefaultTerminal) -> Result<(), Failure> {
    let terminal_failed = |source| Failure::Io { what: "terminal", source };
    let mut app = App::new();
    let mut next_look = Instant::now();
    loop {
        if Instant::now() >= next_look {
            let pods = pods::all(config)?;
            let answers = runtime.block_on(pods::ask_all(&pods));
            app.update(pods.iter().zip(&answers).map(|(pod, answer)| pod.view(answer)).collect(), Instant::now());
            next_look = Instant::now() + interval;
        }
        terminal.draw(|frame| app.draw(frame)).map_err(terminal_failed)?;
        if !event::poll(KEY_WAIT).map_err(terminal_failed)? {
            continue;
        }
        let Event::Key(key) = event::read().map_err(terminal_failed)? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Ok(());
        }
        match app.key(key.code) {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            Wish::Do(action, pod) => {
                let pods = pods::all(config)?;
                let found = pods.iter().find(|found| format!("{}/{}", found.note.namespace, found.note.id) == pod);
                app.message = match found {
                    None => format!("{pod} is gone"),
                    Some(found) => {
                        runtime.block_on(act(&mut app.screen, action, found)).unwrap_or_else(|failure| failure.to_string())
                    }
                };
                next_look = Instant::now();
            }
        }
    }
}

/// Does it, and says what was done.
async fn act(screen: &mut Screen, action: Action, pod: &Pod) -> Result<String, Failure> {
    let id = &pod.note.id;
    match action {
        Action::Console => {
            let request = ConsoleRequest { lines: CONSOLE_LINES, ..Default::default() };
            let client = pod.machine().await?;
            let answer = client.console(context::with_duration(STOP_PATIENCE), &request).await;
            let text = answer.map_err(|error| pod.silent(&error))?.text;
            let lines = String::from_utf8_lossy(&text).lines().map(table::harmless).collect();
            *screen = Screen::Console(id.clone(), lines);
            Ok(String::new())
        }
        Action::Stop => {
            let failed = |source| Failure::Agent { pod: id.clone(), source };
            // No host name: the guest keeps the one it has.
            let agent = Agent::connect(&pod.paths.vsock_socket(), "", &HashMap::new()).await.map_err(failed)?;
            agent.shutdown(STOP_PATIENCE).await;
            Ok(format!("{id}: asked to power off"))
        }
        Action::Kill => {
            let client = pod.machine().await?;
            let nothing = Empty::new();
            // The answer may be lost with the machine.
            let _ = client.stop(context::with_duration(STOP_PATIENCE), &nothing).await;
            Ok(format!("{id}: killed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Answer;
    use paperboat_protocol::machine::StatsResponse;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn views(cpu_time_ns: u64) -> Vec<View> {
        let directory = tempfile::tempdir().unwrap();
        ["first", "second"]
            .map(|id| {
                let stats = StatsResponse { cpu_time_ns, memory_resident_bytes: 64 << 20, ..Default::default() };
                let answer = Answer { state: "running", stats: Some(stats) };
                pods::tests::pod(directory.path(), "default", id, Some("a name")).view(&answer)
            })
            .into()
    }

    fn screen(app: &App) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 8)).unwrap();
        terminal.draw(|frame| app.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn pods_are_drawn_with_their_rates() {
        let mut app = App::new();
        let start = Instant::now();
        app.update(views(1_000_000_000), start);
        app.update(views(1_500_000_000), start + Duration::from_secs(1));
        let text = screen(&app);
        for word in
            ["POD", "first", "second", "a name", "64 MiB", "50.0", "2 pods, 2 running, 128 MiB resident, 100.0 % CPU", "K: kill"]
        {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
    }

    #[test]
    fn keys_choose_ask_and_act() {
        let mut app = App::new();
        assert_eq!(app.key(KeyCode::Char('s')), Wish::Nothing, "no pod");
        app.update(views(0), Instant::now());
        assert_eq!(app.key(KeyCode::Down), Wish::Nothing);
        assert_eq!(app.key(KeyCode::Char('c')), Wish::Do(Action::Console, "default/second".into()));
        assert_eq!(app.key(KeyCode::Char('K')), Wish::Nothing, "asks first");
        assert!(screen(&app).contains("kill the machine of default/second?"));
        assert_eq!(app.key(KeyCode::Char('n')), Wish::Nothing);
        assert_eq!(app.screen, Screen::Pods);
        app.key(KeyCode::Char('s'));
        assert_eq!(app.key(KeyCode::Char('y')), Wish::Do(Action::Stop, "default/second".into()));
        assert_eq!(app.key(KeyCode::Char('q')), Wish::Quit);
    }

    #[test]
    fn the_selection_stays_on_its_pod() {
        let mut app = App::new();
        app.update(views(0), Instant::now());
        app.key(KeyCode::Down);
        app.update(views(0).into_iter().skip(1).collect(), Instant::now());
        assert_eq!(app.views[app.selected].id, "second");
        app.update(Vec::new(), Instant::now());
        assert_eq!(app.selected, 0);
        app.screen = Screen::Console("first".into(), vec!["last words".into()]);
        assert!(screen(&app).contains("last words"));
    }
}
